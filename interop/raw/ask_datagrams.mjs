// Asks over UDP datagrams: node ask_datagrams.mjs HOST PORT QUESTION...
import { createSocket } from "node:dgram";

const [host, port, ...questions] = process.argv.slice(2);
const socket = createSocket("udp4");
const ask = () => (questions.length ? socket.send(questions.shift()) : socket.close());
socket.on("message", (answer) => {
  console.log(answer.toString());
  ask();
});
socket.connect(Number(port), host, ask);

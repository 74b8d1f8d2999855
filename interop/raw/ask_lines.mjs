// Asks over TCP lines: node ask_lines.mjs HOST PORT QUESTION...
import { connect } from "node:net";
import { createInterface } from "node:readline";

const [host, port, ...questions] = process.argv.slice(2);
const connection = connect(Number(port), host, () => {
  for (const question of questions) connection.write(`${question}\n`);
});
let missing = questions.length;
createInterface({ input: connection }).on("line", (answer) => {
  console.log(answer);
  if (--missing === 0) connection.end();
});

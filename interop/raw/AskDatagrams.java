// Asks over UDP datagrams: java AskDatagrams.java HOST PORT QUESTION...
import java.net.DatagramPacket;
import java.net.DatagramSocket;
import java.net.InetSocketAddress;
import java.nio.charset.StandardCharsets;

public class AskDatagrams {
    public static void main(String[] arguments) throws Exception {
        var node = new InetSocketAddress(arguments[0], Integer.parseInt(arguments[1]));
        try (var socket = new DatagramSocket()) {
            socket.setSoTimeout(10_000);
            for (int at = 2; at < arguments.length; at++) {
                var question = arguments[at].getBytes(StandardCharsets.UTF_8);
                socket.send(new DatagramPacket(question, question.length, node));
                var answer = new DatagramPacket(new byte[65_536], 65_536);
                socket.receive(answer);
                System.out.println(new String(answer.getData(), 0, answer.getLength(), StandardCharsets.UTF_8));
            }
        }
    }
}

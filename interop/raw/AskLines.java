// Asks over TCP lines: java AskLines.java HOST PORT QUESTION...
import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.net.Socket;
import java.nio.charset.StandardCharsets;

public class AskLines {
    public static void main(String[] arguments) throws Exception {
        try (var connection = new Socket(arguments[0], Integer.parseInt(arguments[1]))) {
            var input = new InputStreamReader(connection.getInputStream(), StandardCharsets.UTF_8);
            var answers = new BufferedReader(input);
            for (int at = 2; at < arguments.length; at++) {
                var question = arguments[at] + "\n";
                connection.getOutputStream().write(question.getBytes(StandardCharsets.UTF_8));
                System.out.println(answers.readLine());
            }
        }
    }
}

import io.etcd.jetcd.ByteSequence;
import io.etcd.jetcd.common.exception.EtcdException;
import io.grpc.StatusRuntimeException;
import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.nio.charset.StandardCharsets;
import java.util.Objects;
import java.util.Set;
import java.util.concurrent.Callable;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.TimeoutException;

/** How a scenario tells what it found: a line for each check (../../../../scenario.py reads them). */
final class Checks {
    /** Far longer than an election takes, and than a lease lives on after the death of a leader. */
    private static final long PATIENCE_MILLIS = 30_000;
    /** For one call. Waiting for a lock or an election is not one of these. */
    private static final long CALL_TIMEOUT_MILLIS = 5_000;

    private static final Set<String> UNREACHABLE = Set.of("UNAVAILABLE", "UNKNOWN", "INTERNAL", "CANCELLED", "DEADLINE_EXCEEDED");

    private Checks() {}

    static void check(String name, Object found, Object expected) {
        if (Objects.equals(found, expected)) {
            say("ok " + name);
        } else {
            fail(name, "found " + found + ", expected " + expected);
        }
    }

    static void fail(String name, String why) {
        say("FAIL " + name + ": " + why.replace('\n', ' '));
    }

    static void say(String line) {
        System.out.println(line);
        System.out.flush();
    }

    static void waitUntil(String name, Callable<Boolean> condition) throws Exception {
        long deadline = System.currentTimeMillis() + PATIENCE_MILLIS;
        while (!condition.call() && System.currentTimeMillis() < deadline) {
            Thread.sleep(20);
        }
        check(name, condition.call(), true);
    }

    /** Asks again while nobody answers: the call must not mind to be made twice. */
    static <T> T persist(Callable<CompletableFuture<T>> call) throws Exception {
        long deadline = System.currentTimeMillis() + PATIENCE_MILLIS;
        while (true) {
            try {
                return inTime(call.call());
            } catch (Exception error) {
                if (!unreachable(error) || System.currentTimeMillis() > deadline) {
                    throw error;
                }
                Thread.sleep(100);
            }
        }
    }

    static <T> T inTime(CompletableFuture<T> answer) throws Exception {
        return answer.get(CALL_TIMEOUT_MILLIS, TimeUnit.MILLISECONDS);
    }

    /** A server that can't be reached, or one that knows no leader. The client hands some errors on as gRPC tells them. */
    static boolean unreachable(Throwable error) {
        if (error instanceof ExecutionException && error.getCause() != null) {
            return unreachable(error.getCause());
        }
        String code = error instanceof EtcdException refused ? refused.getErrorCode().name()
            : error instanceof StatusRuntimeException refused ? refused.getStatus().getCode().name()
            : "";
        return error instanceof TimeoutException || UNREACHABLE.contains(code);
    }

    /** Returns once the leader is dead. */
    static void haveLeaderKilled() throws Exception {
        say("kill leader");
        BufferedReader input = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        check("somebody kills the leader", input.readLine(), "killed");
    }

    static ByteSequence bytes(Object value) {
        return ByteSequence.from(value.toString(), StandardCharsets.UTF_8);
    }
}

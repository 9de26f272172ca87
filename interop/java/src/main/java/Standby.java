import java.util.concurrent.Callable;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ExecutionException;

/**
 * Waits for its turn in a call that lasts as long as another one has what it wants. The call ends with the server that it was made
 * to; it is then made again, and as it names the same lease, it takes the same place.
 */
final class Standby<T> extends Thread {
    volatile T turn = null;
    private final Callable<CompletableFuture<T>> call;

    Standby(Callable<CompletableFuture<T>> call) {
        this.call = call;
        setDaemon(true);
        start();
    }

    @Override
    public void run() {
        while (turn == null) {
            try {
                turn = call.call().get();
            } catch (ExecutionException error) {
                if (!Checks.unreachable(error)) {
                    Checks.fail("who waits for its turn may go on", error.toString());
                    return;
                }
                pause();
            } catch (Exception error) {
                Checks.fail("who waits for its turn may go on", error.toString());
                return;
            }
        }
    }

    private static void pause() {
        try {
            Thread.sleep(100);
        } catch (InterruptedException ignored) {
            Thread.currentThread().interrupt();
        }
    }
}

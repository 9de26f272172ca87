import io.etcd.jetcd.ByteSequence;
import io.etcd.jetcd.Client;
import io.etcd.jetcd.Watch;
import io.etcd.jetcd.common.exception.EtcdException;
import io.etcd.jetcd.options.WatchOption;
import io.etcd.jetcd.watch.WatchEvent;
import java.util.List;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CopyOnWriteArrayList;
import java.util.concurrent.TimeUnit;

/**
 * Every change of the shop, in the order in which the watch told it.
 *
 * The client resumes a watch after some errors (it tells of them, too) and gives it up after others: UNKNOWN, if the connection was
 * closed just when it wrote to it. One that ended is made anew here, from the next revision on.
 */
final class Audit {
    /** The value is null for a key that is gone. */
    record Change(long revision, String key, String value) {}

    private static final long PAUSE_MILLIS = 100;

    final List<Change> changes = new CopyOnWriteArrayList<>();
    private final Client client;
    private final ByteSequence prefix;
    private volatile long nextRevision;

    Audit(Client client, String prefix, long revision) {
        this.client = client;
        this.prefix = Checks.bytes(prefix);
        nextRevision = revision;
        watch();
    }

    private void watch() {
        WatchOption options = WatchOption.builder().isPrefix(true).withRevision(nextRevision).build();
        client.getWatchClient().watch(prefix, options, Watch.listener(
            answer -> answer.getEvents().forEach(this::enter),
            Audit::onError,
            () -> CompletableFuture.delayedExecutor(PAUSE_MILLIS, TimeUnit.MILLISECONDS).execute(this::watch)));
    }

    private static void onError(Throwable error) {
        System.err.println("the watch: " + error + (error instanceof EtcdException told ? " " + told.getErrorCode() : ""));
        if (!Checks.unreachable(error)) {
            Checks.fail("the watch goes on", error.toString());
        }
    }

    private void enter(WatchEvent event) {
        boolean put = event.getEventType() == WatchEvent.EventType.PUT;
        changes.add(new Change(
            event.getKeyValue().getModRevision(),
            event.getKeyValue().getKey().toString(),
            put ? event.getKeyValue().getValue().toString() : null));
        nextRevision = event.getKeyValue().getModRevision() + 1;
    }

    List<Change> of(String key) {
        return changes.stream().filter(change -> change.key.equals(key)).toList();
    }

    boolean sawEndOf(String key) {
        return of(key).stream().anyMatch(change -> change.value == null);
    }
}

import io.etcd.jetcd.Client;
import io.etcd.jetcd.Watch;
import io.etcd.jetcd.options.WatchOption;
import io.etcd.jetcd.watch.WatchEvent;
import java.util.List;
import java.util.concurrent.CopyOnWriteArrayList;

/** Every change of the shop, in the order in which the watch told it. To resume the watch is the client's work. */
final class Audit {
    /** The value is null for a key that is gone. */
    record Change(long revision, String key, String value) {}

    final List<Change> changes = new CopyOnWriteArrayList<>();

    Audit(Client client, String prefix, long revision) {
        WatchOption options = WatchOption.builder().isPrefix(true).withRevision(revision).build();
        client.getWatchClient().watch(Checks.bytes(prefix), options, Watch.listener(
            answer -> answer.getEvents().forEach(this::enter),
            Audit::onError));
    }

    /** That a stream ended is told, too, before the client opens the next one. */
    private static void onError(Throwable error) {
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
    }

    List<Change> of(String key) {
        return changes.stream().filter(change -> change.key.equals(key)).toList();
    }

    boolean sawEndOf(String key) {
        return of(key).stream().anyMatch(change -> change.value == null);
    }
}

import io.etcd.jetcd.ByteSequence;
import io.etcd.jetcd.Client;
import io.etcd.jetcd.KV;
import io.etcd.jetcd.KeyValue;
import io.etcd.jetcd.kv.TxnResponse;
import io.etcd.jetcd.op.Cmp;
import io.etcd.jetcd.op.CmpTarget;
import io.etcd.jetcd.op.Op;
import io.etcd.jetcd.options.PutOption;
import java.util.List;
import java.util.Map;
import java.util.concurrent.ConcurrentHashMap;

/**
 * Counts orders, one up at a time. The client tries some calls again by itself, so that a count that was refused may be its own,
 * as may one of unknown outcome: both are looked up.
 */
final class Orders extends Thread {
    static final ByteSequence KEY = Checks.bytes("shop/orders");
    private static final long COUNT_EVERY_MILLIS = 20;

    /** The revision of each whose outcome was told. */
    final Map<Long, Long> acknowledged = new ConcurrentHashMap<>();
    volatile long count = 0;
    private volatile boolean goOn = true;
    private final KV kv;

    Orders(Client client) {
        kv = client.getKVClient();
        setDaemon(true);
    }

    @Override
    public void run() {
        try {
            while (goOn) {
                step(count + 1);
                Thread.sleep(COUNT_EVERY_MILLIS);
            }
        } catch (Exception error) {
            Checks.fail("orders are counted to the end", error.toString());
        }
    }

    private void step(long next) throws Exception {
        Cmp isNext = count == 0
            ? new Cmp(KEY, Cmp.Op.EQUAL, CmpTarget.version(0))
            : new Cmp(KEY, Cmp.Op.EQUAL, CmpTarget.value(Checks.bytes(count)));
        try {
            TxnResponse answer = Checks.inTime(kv.txn().If(isNext).Then(Op.put(KEY, Checks.bytes(next), PutOption.DEFAULT)).commit());
            if (answer.isSucceeded()) {
                acknowledged.put(next, answer.getHeader().getRevision());
                count = next;
                return;
            }
        } catch (Exception error) {
            if (!Checks.unreachable(error)) {
                throw error;
            }
            Thread.sleep(50);
        }
        List<KeyValue> rows = Checks.persist(() -> kv.get(KEY)).getKvs();
        long found = rows.isEmpty() ? 0 : Long.parseLong(rows.get(0).getValue().toString());
        if (found != count && found != next) {
            throw new IllegalStateException(found + " after " + count);
        }
        count = found;
    }

    void end() throws InterruptedException {
        goOn = false;
        join();
    }
}

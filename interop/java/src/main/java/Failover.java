import io.etcd.jetcd.ByteSequence;
import io.etcd.jetcd.Client;
import io.etcd.jetcd.Election;
import io.etcd.jetcd.KV;
import io.etcd.jetcd.KeyValue;
import io.etcd.jetcd.Lease;
import io.etcd.jetcd.Lock;
import io.etcd.jetcd.election.CampaignResponse;
import io.etcd.jetcd.election.LeaderKey;
import io.etcd.jetcd.election.LeaderResponse;
import io.etcd.jetcd.kv.TxnResponse;
import io.etcd.jetcd.lease.LeaseKeepAliveResponse;
import io.etcd.jetcd.lock.LockResponse;
import io.etcd.jetcd.op.Cmp;
import io.etcd.jetcd.op.CmpTarget;
import io.etcd.jetcd.op.Op;
import io.etcd.jetcd.options.GetOption;
import io.etcd.jetcd.options.LeaseOption;
import io.etcd.jetcd.options.PutOption;
import io.grpc.stub.StreamObserver;
import java.net.URI;
import java.util.Arrays;
import java.util.List;
import java.util.Map;
import java.util.concurrent.CopyOnWriteArrayList;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.stream.Collectors;
import java.util.stream.LongStream;

/**
 * Instances of a service, one active and one on standby, with the Java client jetcd: {@code Failover ENDPOINT...}
 *
 * What keeps leases alive, resumes watches and goes to another server is the client. Locks and elections are those of the server.
 */
public final class Failover {
    /** Outlasts a member's restart, too: this client gives a lease up once it was not renewed for so long. */
    private static final long TTL_SECS = 8;
    private static final long COUNTS_MIN = 50;
    private static final String SHOP = "shop/";
    private static final ByteSequence CONFIG = Checks.bytes("shop/config");
    private static final ByteSequence ACTIVE = Checks.bytes("shop/instances/active");
    private static final ByteSequence FORSAKEN = Checks.bytes("shop/instances/forsaken");
    private static final ByteSequence LOCK = Checks.bytes("invoicing");
    private static final ByteSequence ELECTION = Checks.bytes("service");

    private final Client client;
    private final Client other;
    private final KV kv;
    private final Lease leases;
    private final Election election;
    private final AtomicInteger leasesLost = new AtomicInteger();
    private final List<String> observed = new CopyOnWriteArrayList<>();

    private Failover(List<URI> endpoints) {
        client = Client.builder().endpoints(endpoints).build();
        other = Client.builder().endpoints(endpoints).build();
        kv = client.getKVClient();
        leases = client.getLeaseClient();
        election = client.getElectionClient();
    }

    public static void main(String[] endpoints) throws Exception {
        try {
            new Failover(Arrays.stream(endpoints).map(URI::create).toList()).run();
        } catch (Exception error) {
            Checks.fail("an unexpected error", error.toString());
            throw error;
        }
        Checks.say("end");
        System.exit(0);
    }

    private void run() throws Exception {
        Audit audit = configure();

        long active = grant();
        long standby = grant();
        long forsaken = grant();
        keepAlive(client, active);
        keepAlive(other, standby);
        Checks.inTime(kv.put(ACTIVE, Checks.bytes("10.0.0.1"), PutOption.builder().withLeaseId(active).build()));
        Checks.inTime(kv.put(FORSAKEN, Checks.bytes("10.0.0.2"), PutOption.builder().withLeaseId(forsaken).build()));
        KeyValue registered = row(ACTIVE);

        Lock locks = client.getLockClient();
        LockResponse lock = Checks.inTime(locks.lock(LOCK, active));
        KeyValue held = row(lock.getKey());
        Checks.check("the lock belongs to its holder's lease", held.getLease(), active);
        Standby<LockResponse> wantsLock = new Standby<>(() -> other.getLockClient().lock(LOCK, standby));
        LeaderKey elected = Checks.inTime(election.campaign(ELECTION, active, Checks.bytes("active"))).getLeader();
        Checks.check("the first to campaign is elected", leader(), "active");
        observe();
        Standby<CampaignResponse> campaigns = new Standby<>(
            () -> other.getElectionClient().campaign(ELECTION, standby, Checks.bytes("standby")));
        Checks.waitUntil("another one waits for the lock", () -> contenders(LOCK) == 2);
        Checks.waitUntil("and one to be elected", () -> contenders(ELECTION) == 2);

        Orders orders = new Orders(client);
        orders.start();
        Checks.waitUntil("orders are counted", () -> orders.count >= 20);
        Checks.haveLeaderKilled();
        long counted = orders.count;
        Checks.waitUntil("orders are counted on", () -> orders.count >= counted + COUNTS_MIN);
        Checks.waitUntil("the forsaken instance is gone at last", () -> audit.sawEndOf(FORSAKEN.toString()));
        orders.end();

        judge(orders, audit);
        Checks.check("no lease that was kept alive is lost", leasesLost.get(), 0);
        Checks.check("the active instance is registered as before", origin(row(ACTIVE)), origin(registered));
        long remaining = Checks.persist(() -> leases.timeToLive(active, LeaseOption.DEFAULT)).getTTL();
        Checks.check("its lease has time to live", remaining > 0 && remaining <= TTL_SECS, true);
        Checks.check("the lock's holder holds what it took", origin(row(lock.getKey())), origin(held));
        Checks.check("who waits for the lock still waits", wantsLock.turn, null);
        Checks.check("the elected is still elected", List.of(leader(), elected.getRevision()), List.of("active", leaderRevision()));
        Checks.check("who waits to be elected still waits", campaigns.turn, null);
        Checks.check("both in their places", List.of(contenders(LOCK), contenders(ELECTION)), List.of(2L, 2L));

        Checks.persist(() -> election.proclaim(elected, Checks.bytes("active, about to go")));
        Checks.persist(() -> election.resign(elected));
        Checks.waitUntil("who waited is elected", () -> campaigns.turn != null);
        Checks.check("as all can see", leader(), "standby");
        Checks.waitUntil("the observer learns of it", () -> observed.contains("standby"));
        Checks.check("after all that was proclaimed", observed, List.of("active", "active, about to go", "standby"));
        Checks.persist(() -> locks.unlock(lock.getKey()));
        Checks.waitUntil("who waited for the lock has it", () -> wantsLock.turn != null);
        Checks.persist(() -> leases.revoke(active));
        Checks.check("an instance that ends well is gone at once", row(ACTIVE), null);
    }

    /** Configuration that is replaced only by who read it last; the audit begins with it. */
    private Audit configure() throws Exception {
        long start = Checks.inTime(kv.put(CONFIG, Checks.bytes("v1"))).getHeader().getRevision();
        Audit audit = new Audit(client, SHOP, start);
        Checks.check("configuration is replaced by who read it last", replaceConfig(start).isSucceeded(), true);
        TxnResponse refused = replaceConfig(start);
        Checks.check("and not by who read it before that", refused.isSucceeded(), false);
        Checks.check("who is told what it is now", refused.getGetResponses().get(0).getKvs().get(0).getValue().toString(), "v2");
        return audit;
    }

    private TxnResponse replaceConfig(long read) throws Exception {
        return Checks.inTime(kv.txn()
            .If(new Cmp(CONFIG, Cmp.Op.EQUAL, CmpTarget.modRevision(read)))
            .Then(Op.put(CONFIG, Checks.bytes("v2"), PutOption.DEFAULT))
            .Else(Op.get(CONFIG, GetOption.DEFAULT))
            .commit());
    }

    private long grant() throws Exception {
        return Checks.inTime(leases.grant(TTL_SECS)).getID();
    }

    private void keepAlive(Client with, long lease) {
        with.getLeaseClient().keepAlive(lease, new StreamObserver<LeaseKeepAliveResponse>() {
            @Override
            public void onNext(LeaseKeepAliveResponse answer) {}

            /** Also told when a stream ended, before the client opens the next one. */
            @Override
            public void onError(Throwable error) {
                if (!Checks.unreachable(error)) {
                    leasesLost.incrementAndGet();
                }
            }

            @Override
            public void onCompleted() {
                leasesLost.incrementAndGet();
            }
        });
    }

    /** Collects what is proclaimed, each value once: who observes again is told again what it knows. */
    private void observe() {
        other.getElectionClient().observe(ELECTION, new Election.Listener() {
            @Override
            public void onNext(LeaderResponse answer) {
                String value = answer.getKv().getValue().toString();
                if (observed.isEmpty() || !observed.get(observed.size() - 1).equals(value)) {
                    observed.add(value);
                }
            }

            @Override
            public void onError(Throwable error) {
                if (Checks.unreachable(error)) {
                    observe();
                } else {
                    Checks.fail("the observer goes on", error.toString());
                }
            }

            @Override
            public void onCompleted() {
                observe();
            }
        });
    }

    private void judge(Orders orders, Audit audit) throws Exception {
        String key = Orders.KEY.toString();
        KeyValue row = row(Orders.KEY);
        Checks.check("each order counts once", List.of(row.getValue().toString(), row.getVersion()), List.of("" + orders.count, orders.count));
        Checks.waitUntil("the watch has seen the last one", () -> audit.of(key).size() >= orders.count);
        List<String> values = audit.of(key).stream().map(Audit.Change::value).toList();
        Checks.check("and every one before it, in order", values, LongStream.rangeClosed(1, orders.count).mapToObj(Long::toString).toList());
        List<Long> revisions = audit.changes.stream().map(Audit.Change::revision).toList();
        Checks.check("each event once, as revisions rise", revisions, revisions.stream().sorted().distinct().toList());
        Map<Long, Long> told = audit.of(key).stream().collect(Collectors.toMap(change -> Long.parseLong(change.value()), Audit.Change::revision));
        told.keySet().retainAll(orders.acknowledged.keySet());
        Checks.check("at the revision that was acknowledged", told, orders.acknowledged);
        List<Integer> others = List.of(
            audit.of(CONFIG.toString()).size(), audit.of(ACTIVE.toString()).size(), audit.of(FORSAKEN.toString()).size());
        Checks.check("the other events as well", others, List.of(2, 1, 2));
    }

    private KeyValue row(ByteSequence key) throws Exception {
        List<KeyValue> rows = Checks.persist(() -> kv.get(key)).getKvs();
        return rows.isEmpty() ? null : rows.get(0);
    }

    /** What stays the same as long as a key was neither deleted nor made anew. */
    private static List<Long> origin(KeyValue row) {
        return row == null ? List.of() : List.of(row.getCreateRevision(), row.getLease());
    }

    private long contenders(ByteSequence name) throws Exception {
        GetOption options = GetOption.builder().isPrefix(true).withCountOnly(true).build();
        return Checks.persist(() -> kv.get(Checks.bytes(name + "/"), options)).getCount();
    }

    private String leader() throws Exception {
        return Checks.persist(() -> election.leader(ELECTION)).getKv().getValue().toString();
    }

    private long leaderRevision() throws Exception {
        return Checks.persist(() -> election.leader(ELECTION)).getKv().getCreateRevision();
    }
}

// Command failover is a scheduler and a bank, with Go's client and its package concurrency, that live through the death of
// a leader: two workers with sessions, of whom one is elected and holds a mutex; a third that dies; tellers whose
// transfers are software transactions; an auditor who watches them all.
//
//	failover ENDPOINT...
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"
	"go.uber.org/zap"
)

const (
	// ttlSeconds outlasts a member's restart, too: this client gives a session up once it was not renewed for so long.
	ttlSeconds = 8
	// patience is far longer than an election takes.
	patience         = 30 * time.Second
	scenarioTimeout  = 100 * time.Second
	transfersMin     = 20
	electionName     = "scheduler"
	mutexName        = "migration"
	workers          = "workers/"
	electedValue     = "worker-1 at 10.0.0.1"
	proclaimedValue  = "worker-1 at 10.0.0.9"
	callTimeout      = 3 * time.Second
	rivalTriesAtMost = 3 * time.Second
)

func main() {
	ctx, cancel := context.WithTimeout(context.Background(), scenarioTimeout)
	defer cancel()
	first, second := connect(), connect()
	session := must(concurrency.NewSession(first, concurrency.WithTTL(ttlSeconds)))
	rival := must(concurrency.NewSession(second, concurrency.WithTTL(ttlSeconds)))
	forsaken := must(concurrency.NewSession(second, concurrency.WithTTL(ttlSeconds)))
	for name, of := range map[string]*concurrency.Session{"1": session, "2": rival, "3": forsaken} {
		must(first.Put(ctx, workers+name, "busy", clientv3.WithLease(of.Lease())))
	}
	forsaken.Orphan()

	election := concurrency.NewElection(session, electionName)
	done(election.Campaign(ctx, electedValue))
	check("the first to campaign is elected", string(must(election.Leader(ctx)).Kvs[0].Value), electedValue)
	others := concurrency.NewElection(rival, electionName)
	observed := observe(ctx, others)
	elected := make(chan error, 1)
	go func() { elected <- others.Campaign(ctx, "worker-2") }()

	mutex := concurrency.NewMutex(session, mutexName)
	done(mutex.Lock(ctx))
	check("somebody holds the mutex", isOwner(ctx, first, mutex), true)
	check("nobody else gets it", tryLock(ctx, rival), concurrency.ErrLocked)

	start := openAccounts(ctx, first)
	audit := startAuditor(ctx, second, start)
	var staff []*teller
	for number := range tellers {
		staff = append(staff, startTeller(ctx, []*clientv3.Client{first, second}[number], number))
	}
	waitUntil("money moves", func() bool { return allMade(staff, nil, transfersMin) })

	haveLeaderKilled()
	before := []int{staff[0].made(), staff[1].made()}
	waitUntil("it moves on", func() bool { return allMade(staff, before, transfersMin) })
	waitUntil("the forsaken worker is gone at last", func() bool { return !exists(ctx, first, workers+"3") })

	for number, teller := range staff {
		teller.end()
		row := must(first.Get(ctx, teller.key)).Kvs[0]
		check(fmt.Sprintf("teller %d: each transfer was made once", number), fmt.Sprint(string(row.Value), " ", row.Version), fmt.Sprint(teller.last, " ", teller.last))
		waitUntil(fmt.Sprintf("teller %d: the auditor has seen the last one", number), func() bool { return len(audit.sawTransfers(teller.key)) >= teller.last })
		check(fmt.Sprintf("teller %d: and every one before it, in order", number), audit.sawTransfers(teller.key), upTo(teller.last))
		check(fmt.Sprintf("teller %d: at the revision that was acknowledged", number), unseen(teller, audit), []int{})
	}
	audit.mutex.Lock()
	check("no revision came twice, late or in parts", audit.wrong, []string{})
	for _, name := range names {
		check("the books are right about "+name, audit.books[accounts+name], string(must(first.Get(ctx, accounts+name)).Kvs[0].Value))
	}
	audit.mutex.Unlock()

	check("no session that was kept alive has ended", fmt.Sprint(alive(session), alive(rival)), "true true")
	check("their workers are there", fmt.Sprint(exists(ctx, first, workers+"1"), exists(ctx, first, workers+"2")), "true true")
	check("the mutex is held as before", isOwner(ctx, first, mutex), true)
	check("nobody else gets it even now", tryLock(ctx, rival), concurrency.ErrLocked)
	check("the elected is still elected", must(election.Leader(ctx)).Kvs[0].CreateRevision, election.Rev())
	select {
	case err := <-elected:
		check("nobody else was elected", err, "no answer yet")
	default:
	}

	done(election.Proclaim(ctx, proclaimedValue))
	done(election.Resign(ctx))
	select {
	case err := <-elected:
		check("who waited is elected in its place", err, nil)
	case <-time.After(patience):
		check("who waited is elected in its place", "not yet", nil)
	}
	last := "worker-2"
	waitUntil("the observer learns of it", func() bool { seen := observed(); return seen[len(seen)-1] == last })
	check("after all that was proclaimed", observed(), []string{electedValue, proclaimedValue, last})
	done(mutex.Unlock(ctx))
	check("the mutex is free for others", tryLock(ctx, rival), nil)
	done(session.Close())
	check("a worker that ends well is gone at once", exists(ctx, second, workers+"1"), false)
	fmt.Println("end")
}

func connect() *clientv3.Client {
	return must(clientv3.New(clientv3.Config{Endpoints: os.Args[1:], DialTimeout: callTimeout, Logger: zap.NewNop()}))
}

func openAccounts(ctx context.Context, client *clientv3.Client) int64 {
	var puts []clientv3.Op
	for _, name := range names {
		puts = append(puts, clientv3.OpPut(accounts+name, strconv.Itoa(account)))
	}
	return must(client.Txn(ctx).Then(puts...).Commit()).Header.Revision
}

// observe returns a function that tells what was proclaimed so far, each once: an observer that resumes may see a value again.
func observe(ctx context.Context, election *concurrency.Election) func() []string {
	values := make(chan []string, 1)
	values <- []string{""}
	answers := election.Observe(ctx)
	go func() {
		for answer := range answers {
			seen := <-values
			if value := string(answer.Kvs[0].Value); value != seen[len(seen)-1] {
				seen = append(seen, value)
			}
			values <- seen
		}
	}()
	return func() []string {
		seen := <-values
		values <- seen
		if len(seen) == 1 {
			return seen
		}
		return seen[1:]
	}
}

// tryLock makes a new mutex, as a third process would, and lets it go again if it got it.
func tryLock(ctx context.Context, session *concurrency.Session) error {
	ctx, cancel := context.WithTimeout(ctx, rivalTriesAtMost)
	defer cancel()
	mutex := concurrency.NewMutex(session, mutexName)
	err := mutex.TryLock(ctx)
	if err == nil {
		return mutex.Unlock(ctx)
	}
	if errors.Is(err, concurrency.ErrLocked) {
		return concurrency.ErrLocked
	}
	return err
}

// isOwner asks for the key as well: etcd takes a transaction without any operation for a serializable one.
func isOwner(ctx context.Context, client *clientv3.Client, mutex *concurrency.Mutex) bool {
	return must(client.Txn(ctx).If(mutex.IsOwner()).Then(clientv3.OpGet(mutex.Key())).Commit()).Succeeded
}

func exists(ctx context.Context, client *clientv3.Client, key string) bool {
	return must(client.Get(ctx, key)).Count == 1
}

func alive(session *concurrency.Session) bool {
	select {
	case <-session.Done():
		return false
	default:
		return true
	}
}

// allMade tells whether each teller made so many transfers more than before.
func allMade(staff []*teller, before []int, more int) bool {
	for place, teller := range staff {
		least := more
		if before != nil {
			least += before[place]
		}
		if teller.made() < least {
			return false
		}
	}
	return true
}

// unseen lists acknowledged transfers that the auditor did not see, or saw at another revision.
func unseen(t *teller, a *auditor) []int {
	a.mutex.Lock()
	defer a.mutex.Unlock()
	numbers := []int{}
	for number, revision := range t.acknowledged {
		if a.seenAt[t.key][number] != revision {
			numbers = append(numbers, number)
		}
	}
	return numbers
}

func upTo(last int) []string {
	var numbers []string
	for number := 1; number <= last; number++ {
		numbers = append(numbers, strconv.Itoa(number))
	}
	return numbers
}

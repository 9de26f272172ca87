package compare

import (
	"fmt"
	"slices"
	"sort"
	"strings"

	"google.golang.org/grpc/codes"
)

// row is an error that clients can meet.
type row struct {
	name string
	code codes.Code
	text string
	// outOfReach says why no request here can meet it.
	outOfReach string
}

const (
	// Errors that are not those of the list have the code Unknown and their own text.
	unmapped    = "(rule) unmapped errors"
	needsAuth   = "needs Auth, which is not built yet"
	clientsOwn  = "a client makes it itself, before the server's answer counts"
	neverOnWire = "declared for clients; no server path sends it"
	tooShort    = "needs a moment that cannot be held still from outside"
)

// rows are the errors, as etcd's rpctypes have them; two lose their code on the way.
var rows = []row{
	{"ErrGRPCEmptyKey", codes.InvalidArgument, "etcdserver: key is not provided", ""},
	{"ErrGRPCKeyNotFound", codes.InvalidArgument, "etcdserver: key not found", ""},
	{"ErrGRPCValueProvided", codes.InvalidArgument, "etcdserver: value is provided", ""},
	{"ErrGRPCLeaseProvided", codes.InvalidArgument, "etcdserver: lease is provided", ""},
	{"ErrGRPCTooManyOps", codes.InvalidArgument, "etcdserver: too many operations in txn request", ""},
	{"ErrGRPCDuplicateKey", codes.InvalidArgument, "etcdserver: duplicate key given in txn request", ""},
	{"ErrGRPCInvalidClientAPIVersion", codes.InvalidArgument, "etcdserver: invalid client api version", ""},
	{"ErrGRPCInvalidSortOption", codes.InvalidArgument, "etcdserver: invalid sort option", ""},
	{"ErrGRPCCompacted", codes.OutOfRange, "etcdserver: mvcc: required revision has been compacted", ""},
	{"ErrGRPCFutureRev", codes.OutOfRange, "etcdserver: mvcc: required revision is a future revision", ""},
	{"ErrGRPCNoSpace", codes.ResourceExhausted, "etcdserver: mvcc: database space exceeded", ""},
	{"ErrGRPCLeaseNotFound", codes.NotFound, "etcdserver: requested lease not found", ""},
	{"ErrGRPCLeaseExist", codes.FailedPrecondition, "etcdserver: lease already exists", ""},
	{"ErrGRPCLeaseTTLTooLarge", codes.OutOfRange, "etcdserver: too large lease TTL", ""},
	{"ErrGRPCWatchCanceled", codes.Canceled, "etcdserver: watch canceled", clientsOwn},
	{"ErrGRPCMemberExist", codes.FailedPrecondition, "etcdserver: member ID already exist", ""},
	{"ErrGRPCPeerURLExist", codes.FailedPrecondition, "etcdserver: Peer URLs already exists", ""},
	{"ErrGRPCMemberNotEnoughStarted", codes.Unknown, "etcdserver: re-configuration failed due to not enough started members", ""},
	{"ErrGRPCMemberBadURLs", codes.InvalidArgument, "etcdserver: given member URLs are invalid", ""},
	{"ErrGRPCMemberNotFound", codes.NotFound, "etcdserver: member not found", ""},
	{"ErrGRPCMemberNotLearner", codes.FailedPrecondition, "etcdserver: can only promote a learner member", ""},
	{"ErrGRPCLearnerNotReady", codes.FailedPrecondition, "etcdserver: can only promote a learner member which is in sync with leader", ""},
	{"ErrGRPCTooManyLearners", codes.FailedPrecondition, "etcdserver: too many learner members in cluster", ""},
	{"ErrGRPCClusterIDMismatch", codes.FailedPrecondition, "etcdserver: cluster ID mismatch", neverOnWire},
	{"ErrGRPCRequestTooLarge", codes.InvalidArgument, "etcdserver: request is too large", ""},
	{"ErrGRPCRequestTooManyRequests", codes.Unknown, "etcdserver: too many requests", tooShort + ": 5000 entries committed and not applied"},
	{"ErrGRPCRootUserNotExist", codes.FailedPrecondition, "etcdserver: root user does not exist", needsAuth},
	{"ErrGRPCRootRoleNotExist", codes.FailedPrecondition, "etcdserver: root user does not have root role", needsAuth},
	{"ErrGRPCUserAlreadyExist", codes.FailedPrecondition, "etcdserver: user name already exists", needsAuth},
	{"ErrGRPCUserEmpty", codes.InvalidArgument, "etcdserver: user name is empty", needsAuth},
	{"ErrGRPCUserNotFound", codes.FailedPrecondition, "etcdserver: user name not found", needsAuth},
	{"ErrGRPCRoleAlreadyExist", codes.FailedPrecondition, "etcdserver: role name already exists", needsAuth},
	{"ErrGRPCRoleNotFound", codes.FailedPrecondition, "etcdserver: role name not found", needsAuth},
	{"ErrGRPCRoleEmpty", codes.InvalidArgument, "etcdserver: role name is empty", needsAuth},
	{"ErrGRPCAuthFailed", codes.InvalidArgument, "etcdserver: authentication failed, invalid user ID or password", needsAuth},
	{"ErrGRPCPermissionNotGiven", codes.InvalidArgument, "etcdserver: permission not given", needsAuth},
	{"ErrGRPCPermissionDenied", codes.PermissionDenied, "etcdserver: permission denied", needsAuth},
	{"ErrGRPCRoleNotGranted", codes.FailedPrecondition, "etcdserver: role is not granted to the user", needsAuth},
	{"ErrGRPCPermissionNotGranted", codes.FailedPrecondition, "etcdserver: permission is not granted to the role", needsAuth},
	{"ErrGRPCAuthNotEnabled", codes.FailedPrecondition, "etcdserver: authentication is not enabled", needsAuth},
	{"ErrGRPCInvalidAuthToken", codes.Unauthenticated, "etcdserver: invalid auth token", needsAuth},
	{"ErrGRPCInvalidAuthMgmt", codes.InvalidArgument, "etcdserver: invalid auth management", needsAuth},
	{"ErrGRPCAuthOldRevision", codes.InvalidArgument, "etcdserver: revision of auth store is old", needsAuth},
	{"ErrGRPCNoLeader", codes.Unavailable, "etcdserver: no leader", ""},
	{"ErrGRPCNotLeader", codes.FailedPrecondition, "etcdserver: not leader", ""},
	{"ErrGRPCLeaderChanged", codes.Unavailable, "etcdserver: leader changed", tooShort + ": a leader that changes while a read waits"},
	{"ErrGRPCNotCapable", codes.FailedPrecondition, "etcdserver: not capable", "both serve clients only once the cluster's version is decided"},
	{"ErrGRPCStopped", codes.Unavailable, "etcdserver: server stopped", tooShort + ": a server that stops while a call waits"},
	{"ErrGRPCTimeout", codes.Unavailable, "etcdserver: request timed out", ""},
	{"ErrGRPCTimeoutDueToLeaderFail", codes.Unavailable, "etcdserver: request timed out, possibly due to previous leader failure", tooShort + ": a leader elected within two election timeouts of a call that still runs into its time limit"},
	{"ErrGRPCTimeoutDueToConnectionLost", codes.Unavailable, "etcdserver: request timed out, possibly due to connection lost", "who loses the quorum or the leader has no leader an election timeout later, long before the time limit of a call"},
	{"ErrGRPCTimeoutWaitAppliedIndex", codes.Unavailable, "etcdserver: request timed out, waiting for the applied index took too long", tooShort + ": an apply that takes a second"},
	{"ErrGRPCUnhealthy", codes.Unavailable, "etcdserver: unhealthy cluster", ""},
	{"ErrGRPCCorrupt", codes.DataLoss, "etcdserver: corrupt cluster", ""},
	{"ErrGRPCNotSupportedForLearner", codes.FailedPrecondition, "etcdserver: rpc not supported for learner", ""},
	{"ErrGRPCBadLeaderTransferee", codes.FailedPrecondition, "etcdserver: bad leader transferee", ""},
	{"ErrGRPCWrongDowngradeVersionFormat", codes.InvalidArgument, "etcdserver: wrong downgrade target version format", ""},
	{"ErrGRPCInvalidDowngradeTargetVersion", codes.InvalidArgument, "etcdserver: invalid downgrade target version", ""},
	{"ErrGRPCClusterVersionUnavailable", codes.FailedPrecondition, "etcdserver: cluster version not found during downgrade", "both serve clients only once the cluster's version is decided"},
	{"ErrGRPCDowngradeInProcess", codes.FailedPrecondition, "etcdserver: cluster has a downgrade job in progress", ""},
	{"ErrGRPCNoInflightDowngrade", codes.FailedPrecondition, "etcdserver: no inflight downgrade job", "etcd 3.7 tells only its log of it, and answers as if there had been one"},
	{"ErrGRPCCanceled", codes.Canceled, "etcdserver: request canceled", neverOnWire},
	{"ErrGRPCDeadlineExceeded", codes.DeadlineExceeded, "etcdserver: context deadline exceeded", neverOnWire},
	{"auth.ErrNoPasswordUser", codes.Unknown, "auth: authentication failed, password was given for no password user", needsAuth},
	{"lease.ErrNotPrimary", codes.Unknown, "not a primary lessor", tooShort + ": a leader that loses its office while it renews"},
	{"errors.ErrTimeoutLeaderTransfer", codes.Unknown, "etcdserver: request timed out, leader transfer took too long", tooShort + ": a transfer that takes longer than its time limit"},
	{"errors.ErrUnknownMethod", codes.Unknown, "etcdserver: unknown method", ""},
	{"concurrency.ErrElectionNoLeader", codes.Unknown, "election: no leader", ""},
	{"concurrency.ErrElectionNotLeader", codes.Unknown, "election: not leader", ""},
	{"v3election.ErrMissingLeaderKey", codes.Unknown, `"leader" field must be provided`, ""},
	{"mvcc.ErrEmptyWatcherRange", codes.OK, "mvcc: watcher range is empty", ""},
	{"mvcc.ErrWatcherDuplicateID", codes.OK, "mvcc: duplicate watch ID provided on the WatchStream", ""},
	{"rangestream-sort", codes.Unimplemented, "RangeStream does not support custom sort orders", ""},
	{"rangestream-filter", codes.Unimplemented, "RangeStream does not support revision filters", ""},
	{"grpc-recv-limit", codes.ResourceExhausted, "grpc: received message larger than max", ""},
	{unmapped, codes.Unknown, "", ""},
	{"(rule) context errors", codes.DeadlineExceeded, "context deadline exceeded", ""},
}

// Tally counts what was reached.
type Tally struct {
	Requests int
	Methods  map[string]int
	Rows     map[string]int
	// Others are errors that no row has.
	Others map[string]int
	// NotYet are calls that the server under test does not have yet.
	NotYet map[string]int
	// Known are differences, by their ids.
	Known map[string]int
}

func newTally() *Tally {
	return &Tally{Methods: map[string]int{}, Rows: map[string]int{}, Others: map[string]int{}, NotYet: map[string]int{}, Known: map[string]int{}}
}

// count takes up an answer that both gave.
func (t *Tally) count(r *Request, answer *Answer) {
	if len(answer.Asked) == 0 {
		t.Requests += r.weight()
		t.Methods[r.Method] += r.weight()
	}
	if r.Method == watchMethod {
		// What is asked of other services meanwhile.
		for _, message := range r.Messages {
			if other, ok := methodOf(message); ok {
				t.Methods[other]++
				t.Methods[r.Method]--
			}
		}
	}
	if answer.Code != codes.OK {
		t.countError(answer.Code, answer.Text)
	}
	for _, failed := range answer.Errors {
		t.countError(failed.code, failed.text)
	}
	for _, method := range answer.Asked {
		t.Requests++
		t.Methods[method]++
	}
	for _, reason := range answer.Reasons {
		t.countReason(reason)
	}
}

func (t *Tally) countError(code codes.Code, text string) {
	for _, row := range rows {
		if row.code == code && (row.text == text || (row.name == "grpc-recv-limit" && strings.HasPrefix(text, row.text))) {
			t.Rows[row.name]++
			return
		}
	}
	if code == codes.Unknown {
		t.Rows[unmapped]++
	}
	t.Others[fmt.Sprintf("%s: %q", code, text)]++
}

func (t *Tally) countReason(reason string) {
	for _, row := range rows {
		if row.text == reason {
			t.Rows[row.name]++
			return
		}
	}
	t.Others[fmt.Sprintf("canceled: %q", reason)]++
}

// merge adds what another has counted.
func (t *Tally) merge(other *Tally) {
	t.Requests += other.Requests
	for _, both := range [][2]map[string]int{
		{t.Methods, other.Methods}, {t.Rows, other.Rows}, {t.Others, other.Others}, {t.NotYet, other.NotYet}, {t.Known, other.Known},
	} {
		for name, count := range both[1] {
			both[0][name] += count
		}
	}
}

// table is what is printed: a line for each method and each row.
func (t *Tally) table() []string {
	lines := []string{fmt.Sprintf("%d requests", t.Requests)}
	sorted := func(title string, counts map[string]int) {
		var names []string
		for name := range counts {
			names = append(names, name)
		}
		sort.Strings(names)
		for _, name := range names {
			lines = append(lines, fmt.Sprintf("%s %7d  %s", title, counts[name], name))
		}
	}
	sorted("method    ", t.Methods)
	for _, row := range rows {
		switch {
		case t.Rows[row.name] > 0:
			lines = append(lines, fmt.Sprintf("error      %7d  %s", t.Rows[row.name], row.name))
		case row.outOfReach != "":
			lines = append(lines, fmt.Sprintf("error            -  %s: %s", row.name, row.outOfReach))
		default:
			lines = append(lines, fmt.Sprintf("error            0  %s", row.name))
		}
	}
	sorted("other     ", t.Others)
	sorted("not yet   ", t.NotYet)
	sorted("difference", t.Known)
	return lines
}

// missing are the methods and the errors within reach that were met less often.
func (t *Tally) missing(wanted int) []string {
	var lines []string
	for _, method := range methodsOf() {
		if t.Methods[method] < wanted && t.NotYet[method] == 0 {
			lines = append(lines, fmt.Sprintf("%s: %d", method, t.Methods[method]))
		}
	}
	for _, row := range rows {
		if row.outOfReach == "" && t.Rows[row.name] < wanted {
			lines = append(lines, fmt.Sprintf("%s: %d", row.name, t.Rows[row.name]))
		}
	}
	return lines
}

// methodsOf are all methods.
func methodsOf() []string {
	all := []string{rangeStreamMethod, watchMethod, keepAliveMethod, snapshotMethod, observeMethod, healthMethod + "Watch"}
	for _, method := range methods {
		if !slices.Contains(all, method) && !strings.HasPrefix(method, authService) {
			all = append(all, method)
		}
	}
	sort.Strings(all)
	return all
}

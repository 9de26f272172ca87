// Package http asks etcd 3.7 and the server under test the same over plain HTTP, the JSON gateway above all, and compares
// status, headers and body of every answer.
//
//	QUORATE_SERVER   the server under test
//	QUORATE_ETCD37   etcd 3.7's server
package http

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"reflect"
	"sort"
	"strings"
	"testing"
	"time"

	"quorate/interop/daemon"
)

// What has to come comes within this time.
const patience = 20 * time.Second

// Headers that are compared.
var headers = []string{
	"Content-Type", "Grpc-Metadata-Content-Type", "Allow", "X-Content-Type-Options", "Www-Authenticate",
	"Access-Control-Allow-Methods", "Access-Control-Allow-Origin", "Access-Control-Allow-Headers", "Sec-Websocket-Version",
}

// What two servers differ in by nature, wherever it stands in a body.
var byNature = map[string]bool{
	"cluster_id": true, "member_id": true, "raft_term": true, "clientURLs": true, "peerURLs": true, "leader": true,
	"dbSize": true, "dbSizeInUse": true, "raftIndex": true, "raftAppliedIndex": true, "raftTerm": true,
	// The hash over a whole backend, whose form is each one's own.
	"version": true, "etcdserver": true, "hash": true, "remaining_bytes": true, "blob": true,
}

// server is one of the two.
type server struct {
	t    *testing.T
	name string
	// Listeners, by what they are for.
	urls map[string]string
	// What it was told, in order.
	told []string
	// The one member's id.
	member string
}

// both starts the two servers, with the same flags and with listeners of the same kinds.
func both(t *testing.T, listeners []string, flags ...string) [2]*server {
	t.Helper()
	urls := func() (map[string]string, []string) {
		urls, all := map[string]string{}, append([]string{}, flags...)
		for _, listener := range listeners {
			urls[listener] = daemon.FreeURL(t)
			all = append(all, "--listen-"+listener+"-urls", urls[listener])
		}
		return urls, all
	}
	theirs, theirFlags := urls()
	theirs["client"], _ = daemon.StartEtcd37With(t, theirFlags...)
	ours, ourFlags := urls()
	d := daemon.New(t)
	d.Flags = ourFlags
	d.Start(t)
	ours["client"] = d.Endpoint
	servers := [2]*server{{t: t, name: "etcd", urls: theirs}, {t: t, name: "quorate", urls: ours}}
	for _, s := range servers {
		daemon.Connect(t, s.name, s.urls["client"])
	}
	return servers
}

func (s *server) note(format string, arguments ...any) {
	s.told = append(s.told, fmt.Sprintf(format, arguments...))
}

// tellBothTheSame runs a story on both and compares what they were told.
func tellBothTheSame(t *testing.T, servers [2]*server, story func(s *server)) {
	t.Helper()
	for _, s := range servers {
		story(s)
	}
	daemon.CompareTold(t, servers[0].told, servers[1].told)
}

type request struct {
	method, path, body string
	header             map[string]string
	host               string
	listener           string
	// The text of an error is each parser's own.
	anyText bool
}

func (s *server) send(r request) *http.Response {
	s.t.Helper()
	listener := r.listener
	if listener == "" {
		listener = "client"
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	s.t.Cleanup(cancel)
	asked, err := http.NewRequestWithContext(ctx, r.method, s.urls[listener]+r.path, strings.NewReader(r.body))
	if err != nil {
		s.t.Fatal(err)
	}
	for name, value := range r.header {
		asked.Header.Set(name, value)
	}
	if r.host != "" {
		asked.Host = r.host
	}
	answer, err := http.DefaultClient.Do(asked)
	if err != nil {
		s.t.Fatalf("%s: %s %s: %v", s.name, r.method, r.path, err)
	}
	return answer
}

// ask notes status, headers and body of the answer.
func (s *server) ask(r request) {
	s.t.Helper()
	answer := s.send(r)
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		s.t.Fatalf("%s: %s %s: %v", s.name, r.method, r.path, err)
	}
	asked := r.body
	if s.member != "" {
		asked = strings.ReplaceAll(asked, s.member, "MEMBER")
	}
	s.note("%s %s %s -> %d %s %s", r.method, r.path, asked, answer.StatusCode, show(answer.Header), s.plain(body, r.anyText))
}

func show(given http.Header) string {
	var shown []string
	for _, name := range headers {
		if value, ok := given[http.CanonicalHeaderKey(name)]; ok {
			shown = append(shown, fmt.Sprintf("%s: %q", name, value))
		}
	}
	return "{" + strings.Join(shown, ", ") + "}"
}

// plain shows a body without what differs by nature; JSON is shown in one form.
func (s *server) plain(body []byte, anyText bool) string {
	if bytes.HasPrefix(body, []byte("[+]")) || bytes.HasPrefix(body, []byte("[-]")) {
		// The checks of a probe come in any order.
		lines := strings.Split(string(body), "\n")
		sort.Strings(lines)
		return fmt.Sprintf("%q", lines)
	}
	if !bytes.HasPrefix(bytes.TrimSpace(body), []byte("{")) {
		return fmt.Sprintf("%q", body)
	}
	var lines []string
	decoder := json.NewDecoder(bytes.NewReader(body))
	decoder.UseNumber()
	for decoder.More() {
		var value any
		if err := decoder.Decode(&value); err != nil {
			return fmt.Sprintf("no JSON: %q", body)
		}
		shown, err := json.Marshal(s.neutral(value, anyText))
		if err != nil {
			s.t.Fatal(err)
		}
		lines = append(lines, string(shown))
	}
	return strings.Join(lines, "\n")
}

func (s *server) neutral(value any, anyText bool) any {
	switch value := value.(type) {
	case map[string]any:
		for name, member := range value {
			if byNature[name] || (anyText && name == "message") {
				value[name] = reflect.TypeOf(member).String()
			} else {
				value[name] = s.neutral(member, anyText)
			}
		}
		return value
	case []any:
		for number := range value {
			value[number] = s.neutral(value[number], anyText)
		}
		return value
	case string:
		if s.member != "" && value == s.member {
			return "MEMBER"
		}
		return value
	default:
		return value
	}
}

func b64(text string) string { return base64.StdEncoding.EncodeToString([]byte(text)) }

func (s *server) post(path, body string) {
	s.t.Helper()
	s.ask(request{method: "POST", path: path, body: body})
}

func (s *server) get(path string) { s.t.Helper(); s.ask(request{method: "GET", path: path}) }

// findMember learns the one member's id.
func (s *server) findMember() {
	answer := s.send(request{method: "POST", path: "/v3/cluster/member/list", body: "{}"})
	defer answer.Body.Close()
	var list struct {
		Members []struct{ ID string }
	}
	if err := json.NewDecoder(answer.Body).Decode(&list); err != nil || len(list.Members) != 1 {
		s.t.Fatalf("%s: %v %v", s.name, list, err)
	}
	s.member = list.Members[0].ID
}

func TestEveryRoute(t *testing.T) {
	tellBothTheSame(t, both(t, nil), func(s *server) {
		s.findMember()
		key, other, end := b64("foo"), b64("fop"), b64("foz")
		s.post("/v3/kv/put", `{"key":"`+key+`","value":"`+b64("bar")+`"}`)
		s.post("/v3/kv/put", `{"key":"`+key+`","value":"`+b64("baz")+`","prev_kv":true}`)
		s.post("/v3/kv/put", `{"key":"`+other+`","value":"`+b64("\x00\xff")+`","prevKv":true}`)
		s.post("/v3/kv/range", `{"key":"`+key+`"}`)
		s.post("/v3/kv/range", `{"key":"`+key+`","range_end":"`+end+`","sort_order":"DESCEND","sort_target":"KEY","limit":"1"}`)
		s.post("/v3/kv/range", `{"key":"`+key+`","rangeEnd":"`+end+`","sortOrder":1,"countOnly":true}`)
		s.post("/v3/kv/range", `{"key":"`+key+`","revision":2,"keys_only":true}`)
		s.post("/v3/kv/range", `{"key":"AA==","range_end":"AA==","nobody_knows":{"this":[1,2,"x"]}}`)
		s.post("/v3/kv/range", `{"key":"`+strings.TrimRight(b64("f"), "=")+`"}`)
		s.post("/v3/kv/txn", `{"compare":[{"target":"VALUE","key":"`+key+`","value":"`+b64("baz")+`","result":"EQUAL"}],
			"success":[{"request_put":{"key":"`+key+`","value":"`+b64("won")+`"}},{"requestRange":{"key":"`+key+`"}}],
			"failure":[{"request_delete_range":{"key":"`+key+`"}}]}`)
		s.post("/v3/kv/txn", `{"compare":[{"target":"MOD","key":"`+key+`","modRevision":"1"}],
			"failure":[{"request_txn":{"success":[{"request_range":{"key":"`+other+`","count_only":true}}]}}]}`)
		s.post("/v3/kv/deleterange", `{"key":"`+other+`","prev_kv":true}`)
		s.post("/v3/kv/deleterange", `{"key":"`+other+`"}`)
		s.post("/v3/kv/compaction", `{"revision":"3","physical":true}`)
		s.post("/v3/kv/compaction", `{"revision":"3"}`)
		s.post("/v3/kv/compaction", `{"revision":"300"}`)
		s.post("/v3/kv/range", `{"key":"`+key+`","revision":"2"}`)
		s.post("/v3/lease/grant", `{"TTL":600,"ID":"7587"}`)
		s.post("/v3/lease/grant", `{"TTL":600,"ID":"7587"}`)
		s.post("/v3/kv/put", `{"key":"`+b64("leased")+`","lease":"7587"}`)
		s.post("/v3/lease/keepalive", `{"ID":"7587"}`)
		s.post("/v3/lease/leases", ``)
		s.post("/v3/kv/lease/leases", `{}`)
		s.post("/v3/kv/lease/timetolive", `{"ID":"99","keys":true}`)
		s.post("/v3/lease/timetolive", `{"ID":"99"}`)
		s.post("/v3/lease/revoke", `{"ID":"7587"}`)
		s.post("/v3/kv/lease/revoke", `{"ID":"7587"}`)
		s.post("/v3/cluster/member/list", `{"linearizable":true}`)
		s.post("/v3/cluster/member/add", `{"peerURLs":["nothing"]}`)
		s.post("/v3/cluster/member/remove", `{"ID":"1"}`)
		s.post("/v3/cluster/member/update", `{"ID":"1","peerURLs":["http://127.0.0.1:1"]}`)
		s.post("/v3/cluster/member/promote", `{"ID":"1"}`)
		s.post("/v3/maintenance/alarm", `{}`)
		s.post("/v3/maintenance/alarm", `{"action":"ACTIVATE","memberID":"`+s.member+`","alarm":"CORRUPT"}`)
		s.get("/health")
		s.get("/health?exclude=CORRUPT")
		s.get("/readyz")
		s.get("/readyz/data_corruption")
		s.get("/readyz?exclude=data_corruption")
		s.post("/v3/maintenance/alarm", `{"action":"DEACTIVATE","memberID":"`+s.member+`","alarm":2}`)
		s.post("/v3/maintenance/status", ``)
		s.post("/v3/maintenance/defragment", `{}`)
		s.post("/v3/maintenance/hash", `{}`)
		s.post("/v3/maintenance/hashkv", `{"revision":"4"}`)
		s.post("/v3/maintenance/transfer-leadership", `{"targetID":"1"}`)
		s.post("/v3/maintenance/downgrade", `{"action":"VALIDATE","version":"3.1"}`)
		s.post("/v3/maintenance/downgrade", `{"action":"CANCEL"}`)
		s.post("/v3/lease/grant", `{"TTL":600,"ID":"9"}`)
		s.post("/v3/lock/lock", `{"name":"`+b64("lock")+`","lease":"9"}`)
		s.post("/v3/lock/unlock", `{"key":"`+b64("lock/9")+`"}`)
		s.post("/v3/election/campaign", `{"name":"`+b64("poll")+`","lease":"9","value":"`+b64("me")+`"}`)
		s.post("/v3/election/leader", `{"name":"`+b64("poll")+`"}`)
		s.post("/v3/election/leader", `{"name":"`+b64("other")+`"}`)
		s.post("/v3/election/proclaim", `{"value":"`+b64("us")+`"}`)
		s.post("/v3/election/resign", `{}`)
	})
}

func TestWhatIsRefused(t *testing.T) {
	tellBothTheSame(t, both(t, nil), func(s *server) {
		for _, body := range []string{`{`, `[]`, `7`, `{"key":1}`, `{"key":"&&"}`, `{"lease":"x"}`, `{"lease":1.5}`, `nothing`} {
			s.ask(request{method: "POST", path: "/v3/kv/put", body: body, anyText: true})
		}
		s.ask(request{method: "POST", path: "/v3/kv/range", body: `{"sort_order":"SIDEWAYS"}`, anyText: true})
		s.post("/v3/kv/range", ``)
		s.post("/v3/kv/range", `{}`)
		s.post("/v3/kv/put", `{"value":"AA=="}`)
		s.post("/v3/kv/put", `{"key":"AA==","value":"AA==","ignore_value":true}`)
		s.post("/v3/kv/put", `{"key":"AA==","lease":"77"}`)
		s.post("/v3/kv/txn", `{"success":[{}]}`)
		s.post("/v3/kv/txn", `{"success":[{"request_put":{"key":"AA=="}},{"request_put":{"key":"AA=="}}]}`)
		s.post("/v3/kv/range", `{"key":"AA=="} and what follows`)
		for _, method := range []string{"GET", "PUT", "DELETE", "HEAD", "PATCH"} {
			s.ask(request{method: method, path: "/v3/kv/range", body: `{"key":"AA=="}`})
		}
		for _, path := range []string{"/v3/", "/v3/nothing", "/v3/kv", "/v3/kv/range/", "/v3/kv/Range", "/v3/kv/rangestream", "/v3"} {
			s.post(path, `{}`)
		}
		s.get("/v3/nothing")
		s.post("/v3beta/kv/range", `{"key":"AA=="}`)
		s.post("/v3alpha/kv/range", `{"key":"AA=="}`)
		s.ask(request{method: "POST", path: "/v3/kv/range?key=AA==", body: ``})
		s.ask(request{method: "POST", path: "/v3/kv/range", body: `{"key":"AA=="}`, header: map[string]string{"Grpc-Metadata-hasleader": "true"}})
		s.ask(request{method: "POST", path: "/v3/maintenance/snapshot", body: `[]`, anyText: true})
	})
}

// lines reads so many lines of an answer that goes on.
func (s *server) lines(answer *http.Response, count int) {
	s.t.Helper()
	reader := bufio.NewReaderSize(answer.Body, 1<<20)
	for range count {
		line, err := reader.ReadBytes('\n')
		if err != nil {
			s.t.Fatalf("%s: %q, %v", s.name, line, err)
		}
		s.note("%s", s.plain(line, false))
	}
}

func TestStreams(t *testing.T) {
	tellBothTheSame(t, both(t, nil), func(s *server) {
		s.post("/v3/kv/put", `{"key":"`+b64("a")+`","value":"`+b64("1")+`"}`)
		watch := s.send(request{method: "POST", path: "/v3/watch", body: `{"create_request":{"key":"` + b64("a") + `","start_revision":"2","prev_kv":true}}`})
		s.note("%d %s", watch.StatusCode, show(watch.Header))
		s.lines(watch, 2)
		s.post("/v3/kv/put", `{"key":"`+b64("a")+`","value":"`+b64("2")+`"}`)
		s.lines(watch, 1)
		s.post("/v3/kv/deleterange", `{"key":"`+b64("a")+`"}`)
		s.lines(watch, 1)
		watch.Body.Close()
		two := s.send(request{method: "POST", path: "/v3/watch", body: `{"createRequest":{"key":"` + b64("a") + `","watch_id":"7"}}
			{"create_request":{"key":"` + b64("b") + `","watch_id":"7"}} {"cancel_request":{"watch_id":"7"}}`})
		s.lines(two, 3)
		two.Body.Close()
		s.post("/v3/lease/grant", `{"TTL":600,"ID":"11"}`)
		s.post("/v3/lease/keepalive", `{"ID":"11"}{"ID":"12"} {"ID":"11"}`)
		s.post("/v3/lease/keepalive", ``)
		s.post("/v3/election/campaign", `{"name":"`+b64("poll")+`","lease":"11","value":"`+b64("me")+`"}`)
		observe := s.send(request{method: "POST", path: "/v3/election/observe", body: `{"name":"` + b64("poll") + `"}`})
		s.lines(observe, 1)
		observe.Body.Close()
		snapshot := s.send(request{method: "POST", path: "/v3/maintenance/snapshot", body: `{}`})
		s.note("%d %s", snapshot.StatusCode, show(snapshot.Header))
		var last int
		decoder := json.NewDecoder(snapshot.Body)
		for decoder.More() {
			var line struct{ Result struct{ Blob []byte } }
			if err := decoder.Decode(&line); err != nil {
				s.t.Fatalf("%s: %v", s.name, err)
			}
			last = len(line.Result.Blob)
		}
		s.note("the last piece has %d bytes", last)
	})
}

func TestPlain(t *testing.T) {
	tellBothTheSame(t, both(t, nil), func(s *server) {
		for _, path := range []string{
			"/version", "/health", "/health?serializable=true", "/health?exclude=NOSPACE&exclude=x", "/livez", "/livez/serializable_read",
			"/livez/linearizable_read", "/livez?exclude=serializable_read", "/livez?verbose", "/livez?verbose=1&exclude=x", "/readyz",
			"/readyz/", "/readyz/data_corruption", "/readyz/serializable_read", "/readyz/linearizable_read", "/readyz/non_learner",
			"/readyz/nothing", "/readyz?exclude=linearizable_read&exclude=non_learner", "/nothing", "/", "/members",
		} {
			s.get(path)
		}
		for _, path := range []string{"/version", "/health", "/livez", "/readyz/non_learner", "/debug/vars", "/nothing"} {
			for _, method := range []string{"POST", "HEAD", "OPTIONS"} {
				s.ask(request{method: method, path: path})
			}
		}
		s.ask(request{method: "OPTIONS", path: "/v3/kv/range", header: map[string]string{"Origin": "http://page"}})
		s.get("/readyz?verbose")
		metrics := s.send(request{method: "GET", path: "/metrics"})
		metrics.Body.Close()
		s.note("%d %s", metrics.StatusCode, metrics.Header.Get("Content-Type")[:25])
	})
}

func TestWhoMayAsk(t *testing.T) {
	servers := both(t, nil, "--cors", "http://good:80,http://fine:8080", "--host-whitelist", "good,127.0.0.1")
	tellBothTheSame(t, servers, func(s *server) {
		for _, origin := range []string{"", "http://good:80", "http://fine:8080", "http://fine", "http://evil", "*"} {
			header := map[string]string{"Origin": origin}
			s.ask(request{method: "GET", path: "/health", header: header})
			s.ask(request{method: "OPTIONS", path: "/v3/kv/range", header: header})
			s.ask(request{method: "POST", path: "/v3/kv/range", body: `{"key":"AA=="}`, header: header})
		}
		for _, host := range []string{"good", "good:2379", "evil", "evil:2379", "127.0.0.1", "[::1]:2379", "GOOD"} {
			answer := s.send(request{method: "GET", path: "/health", host: host})
			answer.Body.Close()
			s.note("%s: %d %s", host, answer.StatusCode, show(answer.Header))
		}
	})
}

func TestNoGateway(t *testing.T) {
	tellBothTheSame(t, both(t, nil, "--enable-grpc-gateway=false"), func(s *server) {
		s.post("/v3/kv/range", `{"key":"AA=="}`)
		s.get("/v3/kv/range")
		s.get("/health")
	})
}

func TestListenersOfTheirOwn(t *testing.T) {
	tellBothTheSame(t, both(t, []string{"client-http", "metrics"}), func(s *server) {
		for _, path := range []string{"/health", "/livez", "/readyz", "/version", "/debug/vars", "/v3/kv/range", "/nothing"} {
			for _, listener := range []string{"client-http", "metrics"} {
				answer := s.send(request{method: "GET", path: path, listener: listener})
				answer.Body.Close()
				s.note("%s %s: %d %s", listener, path, answer.StatusCode, show(answer.Header))
			}
		}
		s.ask(request{method: "POST", path: "/v3/kv/put", body: `{"key":"AA=="}`, listener: "client-http"})
		s.ask(request{method: "POST", path: "/etcdserverpb.KV/Range", header: map[string]string{"Content-Type": "application/grpc"}, listener: "client-http"})
		s.ask(request{method: "OPTIONS", path: "/health", header: map[string]string{"Origin": "http://page"}, listener: "metrics"})
	})
}

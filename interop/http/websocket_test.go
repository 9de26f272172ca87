package http

import (
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"
)

// socket is a WebSocket on the gateway of one of the two.
type socket struct {
	s    *server
	conn *websocket.Conn
}

// dial notes how the server agrees.
func (s *server) dial(path string, protocols ...string) socket {
	s.t.Helper()
	dialer := websocket.Dialer{Subprotocols: protocols, HandshakeTimeout: patience}
	conn, answer, err := dialer.Dial("ws"+strings.TrimPrefix(s.urls["client"], "http")+path, nil)
	if err != nil {
		s.t.Fatalf("%s: %s: %v, %v", s.name, path, err, answer)
	}
	s.t.Cleanup(func() { conn.Close() })
	s.note("%s %q -> %d %q %q %q %s", path, protocols, answer.StatusCode, answer.Header["Upgrade"], answer.Header["Connection"],
		answer.Header["Sec-Websocket-Protocol"], show(answer.Header))
	if err := conn.SetReadDeadline(time.Now().Add(patience)); err != nil {
		s.t.Fatal(err)
	}
	return socket{s, conn}
}

func (w socket) send(kind int, text string) {
	w.s.t.Helper()
	if err := w.conn.WriteMessage(kind, []byte(text)); err != nil {
		w.s.t.Fatalf("%s: %v", w.s.name, err)
	}
}

// next notes so many messages.
func (w socket) next(count int) {
	w.s.t.Helper()
	for range count {
		kind, message, err := w.conn.ReadMessage()
		if err != nil {
			w.s.t.Fatalf("%s: %v", w.s.name, err)
		}
		w.s.note("%d %s", kind, w.s.plain(message, false))
	}
}

// close closes as a client does, and notes what it is told.
func (w socket) close(code int) {
	w.s.t.Helper()
	if err := w.conn.WriteMessage(websocket.CloseMessage, websocket.FormatCloseMessage(code, "")); err != nil {
		w.s.t.Fatalf("%s: %v", w.s.name, err)
	}
	_, message, err := w.conn.ReadMessage()
	var closed *websocket.CloseError
	if !errors.As(err, &closed) {
		w.s.t.Fatalf("%s: no close, but %q, %v", w.s.name, message, err)
	}
	w.s.note("closed: %d", closed.Code)
}

func TestWebSockets(t *testing.T) {
	tellBothTheSame(t, both(t, nil), func(s *server) {
		watch := s.dial("/v3/watch")
		watch.send(websocket.TextMessage, `{"create_request":{"key":"`+b64("a")+`","watch_id":"7","prev_kv":true}}`)
		watch.next(1)
		s.post("/v3/kv/put", `{"key":"`+b64("a")+`","value":"`+b64("1")+`"}`)
		watch.next(1)
		s.post("/v3/kv/put", `{"key":"`+b64("a")+`","value":"`+b64("2")+`"}`)
		watch.next(1)
		// An object in two messages, two objects in one; text or not.
		watch.send(websocket.BinaryMessage, `{"create_request":`)
		watch.send(websocket.TextMessage, `{"key":"`+b64("b")+`","watch_id":"7"}} {"cancel_request":{"watch_id":"7"}}`)
		watch.next(2)
		watch.send(websocket.TextMessage, "")
		watch.send(websocket.TextMessage, `{"create_request":{"key":"`+b64("a")+`","start_revision":"2"}}`)
		watch.next(2)
		pongs := ""
		watch.conn.SetPongHandler(func(data string) error {
			pongs += data
			return nil
		})
		if err := watch.conn.WriteControl(websocket.PingMessage, []byte("are you there"), time.Now().Add(patience)); err != nil {
			t.Fatal(err)
		}
		s.post("/v3/kv/deleterange", `{"key":"`+b64("a")+`"}`)
		watch.next(1)
		s.note("pongs: %q", pongs)
		watch.close(websocket.CloseNormalClosure)

		s.post("/v3/lease/grant", `{"TTL":600,"ID":"11"}`)
		alive := s.dial("/v3beta/lease/keepalive", "Bearer", "token")
		for range 3 {
			alive.send(websocket.TextMessage, `{"ID":"11"}`)
			alive.next(1)
		}
		alive.send(websocket.TextMessage, `{"ID":"12"}`)
		alive.next(1)
		alive.close(websocket.CloseGoingAway)

		nowhere := s.dial("/v3/nowhere", "chat")
		nowhere.next(1)
		overridden := s.dial("/v3/watch?method=GET")
		overridden.send(websocket.TextMessage, `{"create_request":{"key":"`+b64("a")+`"}}`)
		overridden.next(1)
	})
}

func TestWebSocketsThatAreNone(t *testing.T) {
	tellBothTheSame(t, both(t, nil), func(s *server) {
		good := map[string]string{
			"Connection": "Upgrade", "Upgrade": "websocket", "Sec-Websocket-Version": "13", "Sec-Websocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
		}
		with := func(name, value string) map[string]string {
			changed := map[string]string{}
			for other, given := range good {
				changed[other] = given
			}
			changed[name] = value
			return changed
		}
		for _, header := range []map[string]string{
			with("Sec-Websocket-Version", "8"), with("Sec-Websocket-Version", ""), with("Sec-Websocket-Key", "short"),
			with("Sec-Websocket-Key", ""), with("Connection", "keep-alive"), with("Upgrade", "h2c"),
		} {
			s.ask(request{method: "GET", path: "/v3/watch", header: header})
		}
		s.ask(request{method: "POST", path: "/v3/watch", header: good})
		s.ask(request{method: "GET", path: "/health", header: good})
	})
}

// etcd's gateway waits for the end of the body, which a WebSocket has only when it is closed; so there a call of one message has
// no answer.
func TestWebSocketsOfOneMessage(t *testing.T) {
	servers := both(t, nil)
	for _, s := range servers {
		put := s.dial("/v3/kv/put")
		put.send(websocket.TextMessage, `{"key":"`+b64("a")+`","value":"`+b64("1")+`"}`)
		if s.name == "etcd" {
			if err := put.conn.SetReadDeadline(time.Now().Add(2 * time.Second)); err != nil {
				t.Fatal(err)
			}
			if kind, message, err := put.conn.ReadMessage(); err == nil {
				t.Fatalf("etcd answers: compare it: %d %q", kind, message)
			}
			continue
		}
		put.next(1)
		if _, _, err := put.conn.ReadMessage(); !websocket.IsCloseError(err, websocket.CloseNormalClosure) {
			t.Fatalf("not closed: %v", err)
		}
		answer := s.send(request{method: "POST", path: "/v3/kv/range", body: `{"key":"` + b64("a") + `"}`})
		body, err := io.ReadAll(answer.Body)
		if err != nil || answer.StatusCode != http.StatusOK || !strings.Contains(string(body), b64("1")) {
			t.Fatalf("%d %q, %v", answer.StatusCode, body, err)
		}
	}
}

package compare

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"

	"golang.org/x/net/http2"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
)

// plainHTTP2 speaks HTTP/2 without TLS, so that a call can be made that Go's gRPC client would not make.
var plainHTTP2 = &http.Client{Transport: &http2.Transport{AllowHTTP: true, DialTLSContext: dialPlain}}

func dialPlain(ctx context.Context, network, address string, _ *tls.Config) (net.Conn, error) {
	var dialer net.Dialer
	return dialer.DialContext(ctx, network, address)
}

// badVersion is a call whose client says its version in bytes that are no text.
func badVersion(message proto.Message) Request {
	r := ask(message)
	r.Title = "as a client of version 3.\\xff: "
	r.Talk = func(t *Target, r *Request) Answer {
		var answer Answer
		ctx, cancel := t.context(r)
		defer cancel()
		code, text, err := rawCall(ctx, t.Conns[r.At].Target(), r.Method, t.own(r.Messages[0]), http.Header{"Client-Api-Version": {"3.\xff"}})
		if err != nil {
			answer.fail(err)
			return answer
		}
		answer.Code, answer.Text = code, text
		return answer
	}
	return r
}

// rawCall makes a call of one message and returns the status that ends it.
func rawCall(ctx context.Context, address, method string, message proto.Message, header http.Header) (codes.Code, string, error) {
	body, err := proto.Marshal(message)
	if err != nil {
		return 0, "", err
	}
	framed := binary.BigEndian.AppendUint32([]byte{0}, uint32(len(body)))
	asked, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+address+method, bytes.NewReader(append(framed, body...)))
	if err != nil {
		return 0, "", err
	}
	asked.Header = header
	asked.Header.Set("Content-Type", "application/grpc")
	asked.Header.Set("TE", "trailers")
	answered, err := plainHTTP2.Do(asked)
	if err != nil {
		return 0, "", err
	}
	defer answered.Body.Close()
	if _, err := io.Copy(io.Discard, answered.Body); err != nil {
		return 0, "", err
	}
	status, text := answered.Trailer.Get("Grpc-Status"), answered.Trailer.Get("Grpc-Message")
	if status == "" {
		status, text = answered.Header.Get("Grpc-Status"), answered.Header.Get("Grpc-Message")
	}
	code, err := strconv.Atoi(status)
	if err != nil {
		return 0, "", fmt.Errorf("no status in an answer of HTTP status %s", answered.Status)
	}
	if plain, err := url.PathUnescape(text); err == nil {
		text = plain
	}
	return codes.Code(code), text, nil
}

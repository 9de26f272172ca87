package compare

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
)

// patience is how long an answer may take; a server without a quorum gives up after seven seconds.
const patience = 15 * time.Second

// Answer is what came of a request.
type Answer struct {
	Code codes.Code
	Text string
	// Lines are the messages of the answer, as they are compared.
	Lines []string
	// Reasons are texts of errors that came in messages: why a watch was canceled.
	Reasons []string
	// Errors and Asked are those of a story of several calls.
	Errors []failure
	Asked  []string
	// Messages are those of the lines.
	Messages []proto.Message
	// Took is how long it took.
	Took time.Duration
	// Last is the last message, for the generator to look at.
	Last proto.Message
}

type failure struct {
	code codes.Code
	text string
}

// String is all that is compared.
func (a *Answer) String() string {
	if a.Code == codes.OK {
		return strings.Join(a.Lines, "\n         ")
	}
	return strings.Join(append(append([]string{}, a.Lines...), fmt.Sprintf("%s: %q", a.Code, a.Text)), "\n         ")
}

func (a *Answer) fail(err error) {
	a.Code, a.Text = status.Code(err), status.Convert(err).Message()
}

// add takes a message of the answer up.
func (a *Answer) add(t *Target, message proto.Message) {
	a.Last = t.common(message)
	a.Lines, a.Messages = append(a.Lines, show(a.Last)), append(a.Messages, a.Last)
}

// describe finds the description of a method.
func describe(method string) protoreflect.MethodDescriptor {
	name := protoreflect.FullName(strings.ReplaceAll(strings.TrimPrefix(method, "/"), "/", "."))
	found, err := protoregistry.GlobalFiles.FindDescriptorByName(name)
	if err != nil {
		panic(err)
	}
	return found.(protoreflect.MethodDescriptor)
}

// answerOf makes an empty answer of a method.
func answerOf(described protoreflect.MethodDescriptor) proto.Message {
	kind, err := protoregistry.GlobalTypes.FindMessageByName(described.Output().FullName())
	if err != nil {
		panic(err)
	}
	return kind.New().Interface()
}

func (t *Target) context(r *Request) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	return metadata.AppendToOutgoingContext(ctx, r.Headers...), cancel
}

// Ask asks one of the two.
func (t *Target) Ask(r *Request) Answer {
	begun := time.Now()
	answer := t.ask(r)
	answer.Took = time.Since(begun)
	return answer
}

func (t *Target) ask(r *Request) Answer {
	if r.Talk != nil {
		return r.Talk(t, r)
	}
	ctx, cancel := t.context(r)
	defer cancel()
	described := describe(r.Method)
	if described.IsStreamingServer() {
		return t.collect(ctx, r, -1)
	}
	var answer Answer
	reply := answerOf(described)
	if err := t.Conns[r.At].Invoke(ctx, r.Method, t.own(r.Messages[0]), reply); err != nil {
		answer.fail(err)
		return answer
	}
	if r.Learn != nil {
		r.Learn(t, reply)
	}
	answer.add(t, reply)
	return answer
}

// open begins a call that streams in either direction.
func (t *Target) open(ctx context.Context, r *Request) (grpc.ClientStream, error) {
	described := describe(r.Method)
	kind := &grpc.StreamDesc{ServerStreams: true, ClientStreams: described.IsStreamingClient()}
	return t.Conns[r.At].NewStream(ctx, kind, r.Method)
}

// collect asks for a stream of answers and takes up to `count` of them, all if that is negative.
func (t *Target) collect(ctx context.Context, r *Request, count int) Answer {
	var answer Answer
	stream, err := t.open(ctx, r)
	if err == nil {
		for _, message := range r.Messages {
			if err = stream.SendMsg(t.own(message)); err != nil {
				break
			}
		}
		stream.CloseSend()
	}
	for number := 0; number != count; number++ {
		reply := answerOf(describe(r.Method))
		if err = stream.RecvMsg(reply); err != nil {
			break
		}
		answer.add(t, reply)
	}
	if err != nil && !errors.Is(err, io.EOF) {
		answer.fail(err)
	}
	return answer
}

// talkFirst takes the first answer of a stream that goes on.
func talkFirst(t *Target, r *Request) Answer {
	ctx, cancel := t.context(r)
	defer cancel()
	return t.collect(ctx, r, 1)
}

// talkKeepAlive sends all ids and takes the answers until the server ends the stream.
func talkKeepAlive(t *Target, r *Request) Answer {
	ctx, cancel := t.context(r)
	defer cancel()
	return t.collect(ctx, r, -1)
}

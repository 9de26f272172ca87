package compare

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sort"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

const (
	// etcd looks after watches that are behind every 100 ms.
	watchSilence = 400 * time.Millisecond
	// How often it is asked whether every watch has caught up.
	progressInterval = 15 * time.Millisecond
	// What came out of a stream's own order is there after this.
	watchGrace = 20 * time.Millisecond
)

// settle stands in a watch for: wait until every event has come. It is never sent to a server.
var settle = &etcdserverpb.ResponseHeader{}

// watch is a conversation on one stream, which is closed at its end. Between its messages may stand calls of other services, and
// `settle`; it settles at the end, and before other calls if a watch may be behind.
func watch(messages ...proto.Message) Request {
	return Request{Method: watchMethod, Messages: messages, Talk: talkWatch}
}

func create(message *etcdserverpb.WatchCreateRequest) proto.Message {
	return &etcdserverpb.WatchRequest{RequestUnion: &etcdserverpb.WatchRequest_CreateRequest{CreateRequest: message}}
}

func cancelWatch(id int64) proto.Message {
	return &etcdserverpb.WatchRequest{RequestUnion: &etcdserverpb.WatchRequest_CancelRequest{
		CancelRequest: &etcdserverpb.WatchCancelRequest{WatchId: id}}}
}

func progress() *etcdserverpb.WatchRequest {
	return &etcdserverpb.WatchRequest{RequestUnion: &etcdserverpb.WatchRequest_ProgressRequest{
		ProgressRequest: &etcdserverpb.WatchProgressRequest{}}}
}

// talk is one side of a conversation about watches.
type talk struct {
	target   *Target
	stream   grpc.ClientStream
	received chan *etcdserverpb.WatchResponse
	ended    chan error
	answer   Answer
	// By id: watches that live, and what came for each since the last settling.
	alive map[int64]bool
	came  map[int64][]string
	// The highest revision that any answer told.
	revision int64
	behind   bool
	over     bool
}

func talkWatch(t *Target, r *Request) Answer {
	ctx, cancel := t.context(r)
	defer cancel()
	c := &talk{target: t, alive: map[int64]bool{}, came: map[int64][]string{}, received: make(chan *etcdserverpb.WatchResponse, 1<<16),
		ended: make(chan error, 1)}
	stream, err := t.open(ctx, r)
	if err != nil {
		c.answer.fail(err)
		return c.answer
	}
	c.stream = stream
	go func() {
		for {
			reply := &etcdserverpb.WatchResponse{}
			if err := stream.RecvMsg(reply); err != nil {
				c.ended <- err
				return
			}
			c.received <- reply
		}
	}()
	for _, message := range r.Messages {
		if c.over {
			break
		}
		c.say(ctx, r, message)
	}
	if !c.over {
		c.settle()
	}
	return c.answer
}

func (c *talk) say(ctx context.Context, r *Request, message proto.Message) {
	request, ok := message.(*etcdserverpb.WatchRequest)
	switch {
	case message == proto.Message(settle):
		c.settle()
		return
	case !ok:
		if c.behind {
			c.settle()
		}
		one := ask(message)
		one.At, one.Headers = r.At, r.Headers
		answer := c.target.Ask(&one)
		c.answer.Lines = append(c.answer.Lines, answer.String())
		if answer.Last != nil {
			c.revision = max(c.revision, revisionOf(answer.Last))
		}
		return
	}
	if request.GetCancelRequest() != nil && c.behind {
		// What comes before the end of a watch that has not caught up is a matter of time.
		c.settle()
	}
	c.send(request)
	switch union := request.RequestUnion.(type) {
	case *etcdserverpb.WatchRequest_CreateRequest:
		c.behind = c.behind || union.CreateRequest.GetStartRevision() > 0
		c.await(func(reply *etcdserverpb.WatchResponse) bool { return reply.Created })
	case *etcdserverpb.WatchRequest_CancelRequest:
		if id := union.CancelRequest.GetWatchId(); c.alive[id] {
			c.await(func(reply *etcdserverpb.WatchResponse) bool { return reply.Canceled && reply.WatchId == id })
		}
	case *etcdserverpb.WatchRequest_ProgressRequest:
		c.settle()
	}
}

// await takes answers until one is of that kind, or nothing comes.
func (c *talk) await(wanted func(reply *etcdserverpb.WatchResponse) bool) {
	for !c.over {
		select {
		case reply := <-c.received:
			c.take(reply)
			if wanted(reply) {
				return
			}
		case err := <-c.ended:
			c.end(err)
		case <-time.After(5 * time.Second):
			c.answer.Lines = append(c.answer.Lines, "no answer")
			return
		}
	}
}

// take notes an answer of the stream.
func (c *talk) take(reply *etcdserverpb.WatchResponse) {
	if reply.WatchId == -1 && !reply.Canceled {
		// An answer to a question for progress, of which there are as many as it took.
		return
	}
	if reply.Created && !reply.Canceled {
		c.alive[reply.WatchId] = true
	} else if reply.Canceled {
		delete(c.alive, reply.WatchId)
		if reply.CancelReason != "" {
			c.answer.Reasons = append(c.answer.Reasons, reply.CancelReason)
		}
	}
	c.came[reply.WatchId] = append(c.came[reply.WatchId], show(c.target.common(reply)))
}

// settle waits until every watch of the stream has caught up, which the server tells when asked for progress, and notes what has
// come: the order within a watch counts, that among them is none. A watch that begins in the future or that was canceled by a
// compaction keeps etcd from telling; then silence has to do.
func (c *talk) settle() {
	caughtUp := false
	ask := time.NewTicker(progressInterval)
	defer ask.Stop()
	silent := time.Now()
	for !c.over && !caughtUp && len(c.alive) > 0 && time.Since(silent) < watchSilence {
		select {
		case reply := <-c.received:
			silent = time.Now()
			if reply.WatchId == -1 && !reply.Canceled {
				silent = silent.Add(-watchSilence / 2)
				caughtUp = reply.Header.GetRevision() >= c.revision
			}
			c.take(reply)
		case err := <-c.ended:
			c.end(err)
		case <-ask.C:
			c.send(progress())
		}
	}
	for grace := time.After(watchGrace); !c.over; {
		select {
		case reply := <-c.received:
			c.take(reply)
			continue
		case <-grace:
		}
		break
	}
	var ids []int64
	for id := range c.came {
		ids = append(ids, id)
	}
	sort.Slice(ids, func(i, j int) bool { return ids[i] < ids[j] })
	for _, id := range ids {
		c.answer.Lines = append(c.answer.Lines, c.came[id]...)
	}
	c.answer.Lines = append(c.answer.Lines, fmt.Sprintf("caught up %t", caughtUp))
	c.came, c.behind = map[int64][]string{}, false
}

// send sends a message; what ended a stream that is over comes as its last answer.
func (c *talk) send(message proto.Message) {
	if err := c.stream.SendMsg(c.target.own(message)); err != nil && !errors.Is(err, io.EOF) {
		c.end(err)
	}
}

func (c *talk) end(err error) {
	c.over = true
	c.answer.Code, c.answer.Text = status.Code(err), status.Convert(err).Message()
}

// revisionOf is the revision in the header of an answer.
func revisionOf(message proto.Message) int64 {
	field := message.ProtoReflect().Descriptor().Fields().ByName("header")
	if field == nil || field.Kind() != protoreflect.MessageKind {
		return 0
	}
	header, ok := message.ProtoReflect().Get(field).Message().Interface().(*etcdserverpb.ResponseHeader)
	if !ok {
		return 0
	}
	return header.GetRevision()
}

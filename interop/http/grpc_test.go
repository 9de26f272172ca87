package http

import (
	"context"
	"io"
	"sort"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health/grpc_health_v1"
	reflection "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"

	"quorate/interop/daemon"
)

func TestHealthService(t *testing.T) {
	tellBothTheSame(t, both(t, nil), func(s *server) {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		client := grpc_health_v1.NewHealthClient(daemon.Dial(t, s.urls["client"]))
		for _, service := range []string{"", "etcdserverpb.KV"} {
			answer, err := client.Check(ctx, &grpc_health_v1.HealthCheckRequest{Service: service})
			if err != nil {
				s.note("check %q: %s", service, daemon.Failure(err))
			} else {
				s.note("check %q: %v", service, answer.Status)
			}
			watch, err := client.Watch(ctx, &grpc_health_v1.HealthCheckRequest{Service: service})
			if err != nil {
				t.Fatal(err)
			}
			if first, err := watch.Recv(); err != nil {
				s.note("watch %q: %s", service, daemon.Failure(err))
			} else {
				s.note("watch %q: %v", service, first.Status)
			}
		}
		list, err := client.List(ctx, &grpc_health_v1.HealthListRequest{})
		if err != nil {
			t.Fatal(err)
		}
		for name, status := range list.Statuses {
			s.note("list: %q %v", name, status.Status)
		}
	})
}

// A client that knows nothing learns from reflection how to ask for a range. etcd has no reflection.
func TestReflection(t *testing.T) {
	d := daemon.New(t)
	d.Start(t)
	conn := daemon.Dial(t, d.Endpoint)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	stream, err := reflection.NewServerReflectionClient(conn).ServerReflectionInfo(ctx)
	if err != nil {
		t.Fatal(err)
	}
	ask := func(request *reflection.ServerReflectionRequest) *reflection.ServerReflectionResponse {
		t.Helper()
		if err := stream.Send(request); err != nil {
			t.Fatal(err)
		}
		answer, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		return answer
	}
	listed := ask(&reflection.ServerReflectionRequest{MessageRequest: &reflection.ServerReflectionRequest_ListServices{ListServices: "*"}})
	var names []string
	for _, service := range listed.GetListServicesResponse().GetService() {
		names = append(names, service.Name)
	}
	if !sort.StringsAreSorted(names) || len(names) < 9 {
		t.Fatalf("services: %v", names)
	}
	t.Logf("services: %v", names)
	for _, name := range names {
		if name == "grpc.reflection.v1alpha.ServerReflection" {
			continue
		}
		answer := ask(&reflection.ServerReflectionRequest{MessageRequest: &reflection.ServerReflectionRequest_FileContainingSymbol{FileContainingSymbol: name}})
		var set descriptorpb.FileDescriptorSet
		for _, encoded := range answer.GetFileDescriptorResponse().GetFileDescriptorProto() {
			var file descriptorpb.FileDescriptorProto
			if err := proto.Unmarshal(encoded, &file); err != nil {
				t.Fatal(err)
			}
			set.File = append(set.File, &file)
		}
		files, err := protodesc.NewFiles(&set)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if _, err := files.FindDescriptorByName(protoreflect.FullName(name)); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
	}
	missing := ask(&reflection.ServerReflectionRequest{MessageRequest: &reflection.ServerReflectionRequest_FileContainingSymbol{FileContainingSymbol: "nothing"}})
	if missing.GetErrorResponse().GetErrorCode() != 5 {
		t.Fatalf("a symbol that is not there: %v", missing)
	}
	if err := stream.CloseSend(); err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); err != io.EOF {
		t.Fatalf("the end: %v", err)
	}
}

// While the database is defragmented the server may say that it serves nothing.
func TestUnwellInDefragmentation(t *testing.T) {
	d := daemon.New(t)
	d.Flags = []string{"--feature-gates=StopGRPCServiceOnDefrag=true"}
	d.Start(t)
	conn := daemon.Dial(t, d.Endpoint)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	watch, err := grpc_health_v1.NewHealthClient(conn).Watch(ctx, &grpc_health_v1.HealthCheckRequest{}, grpc.WaitForReady(true))
	if err != nil {
		t.Fatal(err)
	}
	states := make(chan grpc_health_v1.HealthCheckResponse_ServingStatus, 16)
	go func() {
		defer close(states)
		for {
			answer, err := watch.Recv()
			if err != nil {
				return
			}
			states <- answer.Status
		}
	}()
	expect := func(expected grpc_health_v1.HealthCheckResponse_ServingStatus) {
		t.Helper()
		select {
		case state := <-states:
			if state != expected {
				t.Fatalf("%v, not %v", state, expected)
			}
		case <-time.After(patience):
			t.Fatalf("%v was not told", expected)
		}
	}
	expect(grpc_health_v1.HealthCheckResponse_SERVING)
	fill(t, conn)
	defragment(t, conn)
	expect(grpc_health_v1.HealthCheckResponse_NOT_SERVING)
	expect(grpc_health_v1.HealthCheckResponse_SERVING)
}

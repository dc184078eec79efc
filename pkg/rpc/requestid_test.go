package rpc

import (
	"context"
	"regexp"
	"strings"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/metadata"
)

func createNamed(ctx context.Context, t *testing.T, e edge, name string) {
	t.Helper()
	if _, err := e.client.CreateVolume(ctx, &csi.CreateVolumeRequest{Name: name}); err != nil {
		t.Fatal(err)
	}
}

var loggedID = regexp.MustCompile(`requestID="([^"]*)"`)

func TestCallsOfARouterHaveIDsThatNoOtherProcessGives(t *testing.T) {
	seen := map[string]bool{}
	for range 2 {
		e := newEdge(t, callVerbosity, GiveRequestIDs())
		createNamed(t.Context(), t, e, "a")
		createNamed(t.Context(), t, e, "b")
		for _, match := range loggedID.FindAllStringSubmatch(e.log.String(), -1) {
			seen[match[1]] = true
		}
	}
	if len(seen) != 4 {
		t.Errorf("four calls have the IDs %v", seen)
	}
	for id := range seen {
		if !isRequestID(id) {
			t.Errorf("the ID %q would not be taken", id)
		}
	}
}

func TestANodeLogsTheIDThatTheRouterHasGiven(t *testing.T) {
	e := newEdge(t, callVerbosity, TakeRequestIDs())
	ctx := context.WithValue(t.Context(), requestIDKey{}, "0a1b2c3d-17")
	createNamed(SendRequestID(ctx), t, e, "a")
	if log := e.log.String(); strings.Count(log, `requestID="0a1b2c3d-17"`) != 2 {
		t.Errorf("the call and its handler do not log the ID:\n%s", log)
	}
}

func TestIDThatCouldConfuseTheLogIsNotTaken(t *testing.T) {
	for name, headers := range map[string][]string{
		"none":      nil,
		"empty":     {""},
		"long":      {strings.Repeat("a", maxRequestIDBytes+1)},
		"a quote":   {`a" code="OK`},
		"a letter":  {"ID"},
		"two":       {"a", "b"},
		"a newline": {"a b"},
	} {
		t.Run(name, func(t *testing.T) {
			e := newEdge(t, callVerbosity, TakeRequestIDs())
			ctx := metadata.NewOutgoingContext(t.Context(), metadata.MD{requestIDHeader: headers})
			createNamed(ctx, t, e, "a")
			if log := e.log.String(); strings.Count(log, "requestID=1 ") != 2 {
				t.Errorf("the call does not have its number:\n%s", log)
			}
		})
	}
}

// The sidecars on a node's socket do not choose what the log says.
func TestIDIsNotTakenOnAnotherSocket(t *testing.T) {
	e := newEdge(t, callVerbosity)
	ctx := metadata.AppendToOutgoingContext(t.Context(), requestIDHeader, "forged")
	createNamed(ctx, t, e, "a")
	if log := e.log.String(); strings.Contains(log, "forged") {
		t.Errorf("the log has the caller's ID:\n%s", log)
	}
}

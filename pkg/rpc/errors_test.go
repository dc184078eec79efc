package rpc

import (
	"context"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/csi-hostpath/csi-hostpath/pkg/openat"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// sentinels names every error of package volume, for TestEverySentinelHasACode.
var sentinels = map[string]error{
	"ErrInvalid":      volume.ErrInvalid,
	"ErrForbidden":    volume.ErrForbidden,
	"ErrNotFound":     volume.ErrNotFound,
	"ErrIncompatible": volume.ErrIncompatible,
	"ErrInUse":        volume.ErrInUse,
	"ErrPrecondition": volume.ErrPrecondition,
	"ErrNoSpace":      volume.ErrNoSpace,
	"ErrElsewhere":    volume.ErrElsewhere,
	"ErrTooMany":      volume.ErrTooMany,
	"ErrOutOfRange":   volume.ErrOutOfRange,
	"ErrBusy":         volume.ErrBusy,
	"ErrBadToken":     volume.ErrBadToken,
	"ErrUnavailable":  volume.ErrUnavailable,
	"ErrNode":         volume.ErrNode,
	"ErrUnresponsive": volume.ErrUnresponsive,
	"ErrNotLinked":    volume.ErrNotLinked,
	"ErrNodeBusy":     volume.ErrNodeBusy,
	"ErrAPI":          volume.ErrAPI,
	"ErrStale":        volume.ErrStale,
	"ErrCorrupt":      volume.ErrCorrupt,
}

func TestEverySentinelHasACode(t *testing.T) {
	names := exportedErrors(t, "../volume")
	if len(names) == 0 {
		t.Fatal("no sentinel found in package volume: the test looks in the wrong place")
	}
	for _, name := range names {
		err, known := sentinels[name]
		if !known {
			t.Errorf("volume.%s is new: give it a code in codeTable and a line in this test", name)
			continue
		}
		if !slices.ContainsFunc(codeTable, func(e codeEntry) bool { return errors.Is(e.err, err) }) {
			t.Errorf("volume.%s has no code in codeTable", name)
		}
	}
	if len(names) != len(sentinels) {
		t.Errorf("package volume exports %d sentinels, this test lists %d", len(names), len(sentinels))
	}
}

// exportedErrors lists the package-level variables called Err… in a package's sources.
func exportedErrors(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, entry := range entries {
		if !strings.HasSuffix(entry.Name(), ".go") || strings.HasSuffix(entry.Name(), "_test.go") {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), dir+"/"+entry.Name(), nil,
			parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, errorVariables(file)...)
	}
	return names
}

func errorVariables(file *ast.File) []string {
	var names []string
	for _, decl := range file.Decls {
		gen, ok := decl.(*ast.GenDecl)
		if !ok || gen.Tok != token.VAR {
			continue
		}
		for _, spec := range gen.Specs {
			values, ok := spec.(*ast.ValueSpec)
			if !ok {
				continue
			}
			for _, name := range values.Names {
				if strings.HasPrefix(name.Name, "Err") {
					names = append(names, name.Name)
				}
			}
		}
	}
	return names
}

func TestCode(t *testing.T) {
	tests := []struct {
		name string
		err  error
		want codes.Code
	}{
		{"nil", nil, codes.OK},
		{"invalid", volume.ErrInvalid, codes.InvalidArgument},
		{"not found", volume.ErrNotFound, codes.NotFound},
		{"incompatible", volume.ErrIncompatible, codes.AlreadyExists},
		{"in use", volume.ErrInUse, codes.FailedPrecondition},
		{"no space", volume.ErrNoSpace, codes.ResourceExhausted},
		{"elsewhere", volume.ErrElsewhere, codes.ResourceExhausted},
		{"out of range", volume.ErrOutOfRange, codes.OutOfRange},
		{"busy", volume.ErrBusy, codes.Aborted},
		{"bad token", volume.ErrBadToken, codes.Aborted},
		{"unavailable", volume.ErrUnavailable, codes.Unavailable},
		{"the node's fault", volume.ErrNode, codes.Unavailable},
		{"corrupt", volume.ErrCorrupt, codes.Internal},
		{"canceled", context.Canceled, codes.Canceled},
		{"deadline", context.DeadlineExceeded, codes.DeadlineExceeded},
		{
			"full disk",
			&fs.PathError{Op: "write", Path: "x", Err: syscall.ENOSPC},
			codes.ResourceExhausted,
		},
		{
			"full quota",
			&fs.PathError{Op: "write", Path: "x", Err: syscall.EDQUOT},
			codes.ResourceExhausted,
		},
		{"any other errno", syscall.EBADF, codes.Internal},
		{"an absent file is not an absent volume", fs.ErrNotExist, codes.Internal},
		{"any other error", errors.New("boom"), codes.Internal},
		{
			"wrapped twice",
			fmt.Errorf("pool x: %w", fmt.Errorf("%w: y", volume.ErrInUse)),
			codes.FailedPrecondition,
		},
		{"joined", errors.Join(errors.New("boom"), volume.ErrNoSpace), codes.ResourceExhausted},
		{
			"our word before the system's",
			fmt.Errorf("%w: %w", syscall.ENOSPC, volume.ErrUnavailable),
			codes.Unavailable,
		},
		{"a status passes", status.Error(codes.Unimplemented, "no"), codes.Unimplemented},
		{
			"a wrapped status passes",
			fmt.Errorf("x: %w", status.Error(codes.PermissionDenied, "no")),
			codes.PermissionDenied,
		},
		{"a failure is never OK", okStatusError{}, codes.Internal},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := Code(tt.err); got != tt.want {
				t.Errorf("Code(%v) = %v, want %v", tt.err, got, tt.want)
			}
		})
	}
}

// okStatusError is an error that claims to be a success.
type okStatusError struct{}

func (okStatusError) Error() string              { return "not quite" }
func (okStatusError) GRPCStatus() *status.Status { return status.New(codes.OK, "") }

func TestStatusHasAMessageAndNoDetails(t *testing.T) {
	detailed, err := status.New(codes.NotFound, "gone").WithDetails(&emptypb.Empty{})
	if err != nil {
		t.Fatal(err)
	}
	if st := toStatus(detailed.Err()); len(st.Details()) != 0 || st.Message() != "gone" ||
		st.Code() != codes.NotFound {
		t.Errorf("got %v with details %v, want NotFound, its message and no details", st, st.Details())
	}
	if st := toStatus(status.Error(codes.NotFound, "")); st.Message() == "" {
		t.Error("the message is empty; the spec demands one")
	}
	wrapped := fmt.Errorf("%w: volume %q", volume.ErrNotFound, "v")
	if st := toStatus(wrapped); st.Message() != wrapped.Error() {
		t.Errorf("message %q, want all of %q", st.Message(), wrapped)
	}
}

func TestCallNobodyWaitsForIsNotBegun(t *testing.T) {
	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	expired, cancel := context.WithTimeout(t.Context(), 0)
	defer cancel()
	tests := []struct {
		name string
		ctx  context.Context
		want codes.Code
	}{
		{"canceled", canceled, codes.Canceled},
		{"expired", expired, codes.DeadlineExceeded},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := mapErrors(tt.ctx, nil, nil, func(context.Context, any) (any, error) {
				t.Error("the handler was called")
				return nil, nil
			})
			if got := status.Code(err); got != tt.want {
				t.Errorf("got %v, want %v", got, tt.want)
			}
		})
	}
}

func TestFaultOfTheNodeIsUnavailableAndNamesARemedy(t *testing.T) {
	for _, errno := range []syscall.Errno{
		syscall.EIO, syscall.EROFS, syscall.ENOTCONN, syscall.ESTALE, syscall.ESHUTDOWN,
		syscall.ECONNABORTED, syscall.ETIMEDOUT, syscall.EHOSTDOWN,
	} {
		st := toStatus(&fs.PathError{Op: "open", Path: "/x", Err: errno})
		if st.Code() != codes.Unavailable {
			t.Errorf("%v is %s, want UNAVAILABLE", errno, st.Code())
		}
		if !strings.Contains(st.Message(), "look into") && !strings.Contains(st.Message(), "restart") {
			t.Errorf("%q says nothing to do", st.Message())
		}
	}
	for errno := syscall.Errno(1); errno < 134; errno++ { // the last is EHWPOISON
		if openat.IsOfDeadFilesystem(errno) && Code(errno) != codes.Unavailable {
			t.Errorf("%v means that a filesystem is dead, and is %s", errno, Code(errno))
		}
	}
	own := toStatus(fmt.Errorf("%w: repair it: %w", volume.ErrCorrupt, syscall.EIO))
	if own.Code() != codes.Internal || strings.Contains(own.Message(), lookAtDisk) {
		t.Errorf("an error with a sentinel became %v", own)
	}
}

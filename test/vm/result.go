package vm

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
)

// Result is what became of a package's tests, or of a command, in one boot.
type Result struct {
	// Package is relative to the module: pkg/pool. A command has its name there.
	Package string
	// ExitCode is the process's: 128 plus the signal when it was killed, 0 when the power went
	// while it ran.
	ExitCode int
	// Tests are those that have ended, subtests among them, in the order in which they did.
	Tests []Test
}

// Test is a test that has ended.
type Test struct {
	Name    string
	Outcome Outcome
	// Output is what it has said.
	Output string
}

// Outcome of a test, in test2json's words.
type Outcome string

// The outcomes.
const (
	Passed  Outcome = "pass"
	Failed  Outcome = "fail"
	Skipped Outcome = "skip"
)

// testEvent is a line of test2json; see `go doc test2json`. Decoding does not mind the capitals
// there.
type testEvent struct {
	Action string `json:"action"`
	Test   string `json:"test"`
	Output string `json:"output"`
}

// parseTests reads the output of a test binary with -test.v=test2json.
func parseTests(ctx context.Context, importPath, output string) ([]Test, error) {
	cmd := exec.CommandContext(ctx, "go", "tool", "test2json", "-p", importPath)
	cmd.Env = append(os.Environ(), "GOFLAGS=")
	cmd.Stdin = strings.NewReader(output)
	text, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("go tool test2json: %w", err)
	}
	var tests []Test
	said := map[string]string{}
	for decoder := json.NewDecoder(bytes.NewReader(text)); ; {
		var e testEvent
		if err := decoder.Decode(&e); errors.Is(err, io.EOF) {
			return tests, nil
		} else if err != nil {
			return nil, fmt.Errorf("go tool test2json: %w", err)
		}
		switch outcome := Outcome(e.Action); {
		case e.Test == "":
		case e.Action == "output":
			said[e.Test] += e.Output
		case outcome == Passed || outcome == Failed || outcome == Skipped:
			tests = append(tests, Test{Name: e.Test, Outcome: outcome, Output: said[e.Test]})
		}
	}
}

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
)

// event is a line of `go test -json`; see `go doc test2json`. Decoding does not mind the capitals
// there.
type event struct {
	Action  string `json:"action"`
	Package string `json:"package"`
	Test    string `json:"test"`
	Output  string `json:"output"`
}

// results is what became of the tests. A test counts, and each of its subtests.
type results struct {
	ran     int // passed or failed
	skipped []skip
}

type skip struct {
	pkg, test string
	reason    string // what t.Skip said
}

func readFile(path string, into *results) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := read(f, into); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}

// read adds what it finds to the results. Events without a test speak of packages and builds: go
// test itself fails on those.
func read(r io.Reader, into *results) error {
	said := map[string]*strings.Builder{}
	for decoder := json.NewDecoder(r); ; {
		var e event
		if err := decoder.Decode(&e); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		if e.Test == "" {
			continue
		}
		key := e.Package + " " + e.Test
		switch e.Action {
		case "run":
			said[key] = &strings.Builder{}
		case "output":
			if b := said[key]; b != nil && isSaid(e.Output) {
				b.WriteString(strings.TrimSpace(e.Output) + " ")
			}
		case "pass", "fail":
			into.ran++
			delete(said, key)
		case "skip":
			s := skip{pkg: strings.TrimPrefix(e.Package, modulePath), test: e.Test}
			if b := said[key]; b != nil {
				s.reason = strings.TrimSpace(b.String())
			}
			into.skipped = append(into.skipped, s)
			delete(said, key)
		}
	}
}

// isSaid leaves out the lines that the testing package frames a test with: "=== RUN", "--- SKIP".
func isSaid(output string) bool {
	line := strings.TrimSpace(output)
	return !strings.HasPrefix(line, "=== ") && !strings.HasPrefix(line, "--- ")
}

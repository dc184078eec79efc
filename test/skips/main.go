// Command skips reads what `go test -json` wrote and lists the tests that skipped. With CI=true it
// fails on a skip that allowed.txt does not list: a skip that nobody reads is a test that nobody
// has. It always fails when no test ran.
//
//	go run ./test/skips FILE...
package main

import (
	_ "embed"
	"errors"
	"fmt"
	"io"
	"os"
)

//go:embed allowed.txt
var allowedList string

const modulePath = "github.com/csi-hostpath/csi-hostpath/"

func main() {
	unlisted, err := run(os.Stdout, os.Args[1:])
	if err == nil && unlisted > 0 && os.Getenv("CI") == "true" {
		err = errors.New(
			"in CI no test may skip that test/skips/allowed.txt does not list: give it what it needs, or list it with the reason",
		)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "skips:", err)
		os.Exit(1)
	}
}

// run reports on the files to w and counts the skips that are not allowed.
func run(w io.Writer, files []string) (unlisted int, err error) {
	allowed, err := parseAllowed(allowedList)
	if err != nil {
		return 0, err
	}
	var total results
	for _, file := range files {
		if err := readFile(file, &total); err != nil {
			return 0, err
		}
	}
	unlisted = report(w, total, allowed)
	if total.ran == 0 {
		return unlisted, fmt.Errorf("no test ran: %d skipped", len(total.skipped))
	}
	return unlisted, nil
}

// report prints every skip with its reason, and counts those that are not allowed.
func report(w io.Writer, r results, allowed []rule) int {
	unlisted := 0
	for _, s := range r.skipped {
		if reason, ok := lookUp(allowed, s); ok {
			fmt.Fprintf(w, "skipped, allowed: %s %s: %s\n", s.pkg, s.test, reason)
			continue
		}
		unlisted++
		fmt.Fprintf(w, "SKIPPED: %s %s: %s\n", s.pkg, s.test, s.reason)
	}
	fmt.Fprintf(w, "%d tests ran, %d skipped, %d of them unlisted\n", r.ran, len(r.skipped), unlisted)
	return unlisted
}

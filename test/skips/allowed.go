package main

import (
	"fmt"
	"path"
	"strings"
)

// rule is a line of allowed.txt. Package and test are patterns of path.Match.
type rule struct {
	pkg, test, reason string
}

// parseAllowed names the line of the first fault.
func parseAllowed(text string) ([]rule, error) {
	var rules []rule
	n := 0
	for line := range strings.Lines(text) {
		n++
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		what, reason, _ := strings.Cut(line, ": ")
		pkg, test, _ := strings.Cut(what, " ")
		r := rule{pkg: pkg, test: test, reason: strings.TrimSpace(reason)}
		if r.test == "" || r.reason == "" {
			return nil, fmt.Errorf("allowed.txt:%d: want PACKAGE TEST: reason", n)
		}
		for _, pattern := range []string{r.pkg, r.test} {
			if _, err := path.Match(pattern, ""); err != nil {
				return nil, fmt.Errorf("allowed.txt:%d: %q: %w", n, pattern, err)
			}
		}
		rules = append(rules, r)
	}
	return rules, nil
}

// lookUp returns the reason for which a test may skip.
func lookUp(rules []rule, s skip) (reason string, ok bool) {
	for _, r := range rules {
		if matches(r.pkg, s.pkg) && matches(r.test, s.test) {
			return r.reason, true
		}
	}
	return "", false
}

func matches(pattern, name string) bool {
	ok, err := path.Match(pattern, name)
	return ok && err == nil
}

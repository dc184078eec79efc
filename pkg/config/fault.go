package config

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// source says where a field was set. The zero source is Go code.
type source struct {
	// flag is what the user typed on the command line, e.g. --pool fast=/data.
	flag string
	// file and line are where the field stands in the configuration file; lines count from 1.
	file string
	line int
	// bad: the field could not be read, which was reported. Further faults of it follow from that.
	bad bool
}

// sources has a source for a field ("pools[1].path") or for what contains it ("pools[1]", "pools",
// "").
type sources map[string]source

// of is the source of a field: its own, or that of the nearest container that has one.
func (s sources) of(field string) source {
	for {
		if src, ok := s[field]; ok || field == "" {
			return src
		}
		field = parentOf(field)
	}
}

// isBad says whether the field, or what contains it, was reported as unreadable. An unreadable file
// does not make a field of the command line bad.
func (s sources) isBad(field string) bool {
	for {
		src := s[field]
		if src.bad || src.flag != "" || field == "" {
			return src.bad
		}
		field = parentOf(field)
	}
}

// parentOf: "pools[1].path" lies in "pools[1]", that in "pools", that in "".
func parentOf(field string) string {
	return field[:max(0, strings.LastIndexAny(field, ".["))]
}

// place says where a field was set: file:line and its name, the flag, or only its name.
func (s sources) place(field string) string {
	switch src := s.of(field); {
	case src.flag != "":
		return src.flag
	case src.file != "" && field == "":
		return fmt.Sprintf("%s:%d", src.file, src.line)
	case src.file != "":
		return fmt.Sprintf("%s:%d: %s", src.file, src.line, field)
	default:
		return field
	}
}

// fault is one thing that is wrong with a configuration.
type fault struct {
	line int
	text string
}

// faults collects all faults, so that an operator can correct a file in one go.
type faults struct {
	sources sources
	list    []fault
}

// addf reports a fault of a field, unless the field is unreadable.
func (f *faults) addf(field, format string, args ...any) {
	if f.sources.isBad(field) {
		return
	}
	text := f.sources.place(field) + ": " + fmt.Sprintf(format, args...)
	f.list = append(f.list, fault{f.sources.of(field).line, text})
}

// err joins the faults, those of the command line first, then by line; nil when there are none.
func (f *faults) err() error {
	slices.SortStableFunc(f.list, func(a, b fault) int { return cmp.Compare(a.line, b.line) })
	errs := make([]error, len(f.list))
	for i, one := range f.list {
		errs[i] = errors.New(one.text)
	}
	return errors.Join(errs...)
}

// quote is a value for a message: on one line, and cut when it is long.
func quote(s string) string {
	const shown = 80
	if len(s) > shown {
		return fmt.Sprintf("%q…", s[:shown])
	}
	return fmt.Sprintf("%q", s)
}

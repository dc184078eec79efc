// Package remedy finds what docs/troubleshooting.md says about a message of Kubernetes or of the
// driver. The document is the only place that has causes and remedies.
package remedy

import (
	"regexp"
	"slices"
	"strings"
)

// Row is a row of the document: a message, why it comes, and what to do.
type Row struct {
	// Section is the heading above the row's table, and Anchor its link in the document.
	Section, Anchor string
	// Message is the first cell, as the document has it.
	Message   string
	Cause, Do string
	patterns  []pattern
}

// pattern is a message with gaps: its parts, in order.
type pattern []string

// Book is a document that was read.
type Book struct{ rows []Row }

// minPatternBytes is how long the parts of a pattern are together, so that a word such as "with" or
// a name in the first cell is none.
const minPatternBytes = 12

var (
	quoted  = regexp.MustCompile("`([^`]+)`")
	linked  = regexp.MustCompile(`\[([^\]]*)\]\([^)]*\)`)
	divider = regexp.MustCompile(`^\|[-| ]+\|$`)
)

// Read reads the tables of a document that have three columns.
func Read(document string) Book {
	var b Book
	var section string
	for line := range strings.Lines(document) {
		line = strings.TrimSpace(line)
		if heading := strings.TrimLeft(line, "#"); heading != line {
			section = strings.TrimSpace(heading)
			continue
		}
		cells := cellsOf(line)
		if len(cells) != 3 || divider.MatchString(line) {
			continue
		}
		row := Row{
			Section: section, Anchor: anchor(section), Message: cells[0],
			Cause: plain(cells[1]), Do: plain(cells[2]), patterns: patternsOf(cells[0]),
		}
		if len(row.patterns) > 0 {
			b.rows = append(b.rows, row)
		}
	}
	return b
}

// cellsOf splits a row of a table. "\|" is no end of a cell.
func cellsOf(line string) []string {
	if !strings.HasPrefix(line, "|") || !strings.HasSuffix(line, "|") {
		return nil
	}
	const bar = "\x00"
	line = strings.ReplaceAll(strings.Trim(line, "|"), `\|`, bar)
	cells := strings.Split(line, "|")
	for i := range cells {
		cells[i] = strings.TrimSpace(strings.ReplaceAll(cells[i], bar, "|"))
	}
	return cells
}

// patternsOf are the messages in a cell: what is between backticks.
func patternsOf(cell string) (patterns []pattern) {
	for _, match := range quoted.FindAllStringSubmatch(cell, -1) {
		var p pattern
		length := 0
		for part := range strings.SplitSeq(match[1], "…") {
			if part = strings.TrimSpace(part); part != "" {
				p = append(p, part)
				length += len(part)
			}
		}
		if length >= minPatternBytes && !strings.HasPrefix(match[1], "kubectl ") {
			patterns = append(patterns, p)
		}
	}
	return patterns
}

// plain takes the links out of a text of Markdown. The marks of code stay: they quote.
func plain(text string) string { return linked.ReplaceAllString(text, "$1") }

// anchor is the link to a heading, as GitHub makes it.
func anchor(heading string) string {
	var b strings.Builder
	for _, r := range strings.ToLower(heading) {
		switch {
		case r == ' ':
			b.WriteByte('-')
		case r == '-', r >= 'a' && r <= 'z', r >= '0' && r <= '9':
			b.WriteRune(r)
		}
	}
	return b.String()
}

// length of all parts.
func (p pattern) length() (n int) {
	for _, part := range p {
		n += len(part)
	}
	return n
}

// matches says whether a message has all parts in order.
func (p pattern) matches(message string) bool {
	for _, part := range p {
		_, rest, ok := strings.Cut(message, part)
		if !ok {
			return false
		}
		message = rest
	}
	return true
}

// For is the row that says most of a message: the one with the longest pattern. Of two that are as
// long, the first one in one of the sections wins.
func (b Book) For(message string, sections ...string) (Row, bool) {
	best, length := Row{}, 0
	for _, row := range b.rows {
		if !inSections(row, sections) {
			continue
		}
		for _, p := range row.patterns {
			if n := p.length(); n > length && p.matches(message) {
				best, length = row, n
			}
		}
	}
	return best, length > 0
}

func inSections(row Row, sections []string) bool {
	if len(sections) == 0 {
		return true
	}
	return slices.Contains(sections, row.Section)
}

// Rows are all rows that have a message.
func (b Book) Rows() []Row { return b.rows }

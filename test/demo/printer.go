package main

import (
	"fmt"
	"io"
	"strings"
	"time"
	"unicode/utf8"
)

// width is the column at which times stand.
const width = 60

// elided stands for the scene's directory in what is shown.
const elided = "…"

// printer numbers the steps, aligns their times and shortens their paths.
type printer struct {
	out   io.Writer
	dir   string
	steps int
}

// title begins a chapter.
func (p *printer) title(text string) { fmt.Fprintf(p.out, "\n%s\n", text) }

// step is a line for what was done and how long it took.
func (p *printer) step(took time.Duration, text string) {
	p.steps++
	dots := strings.Repeat("·", max(3, width-utf8.RuneCountInString(text)))
	fmt.Fprintf(p.out, " %2d  %s %s %9s\n", p.steps, text, dots, short(took))
}

// note is a line on what came of the step before.
func (p *printer) note(line string) {
	fmt.Fprintf(p.out, "        %s\n", strings.ReplaceAll(line, p.dir, elided))
}

// short is a duration as people say it.
func short(d time.Duration) string {
	switch {
	case d < time.Second:
		return fmt.Sprintf("%.2f ms", float64(d)/float64(time.Millisecond))
	default:
		return fmt.Sprintf("%.2f s", d.Seconds())
	}
}

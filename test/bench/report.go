package main

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"os"
	"strconv"
	"strings"
	"text/tabwriter"
)

// row is a line of the report. Measured and Floor are over the rounds, Ratio is measured to floor,
// round by round.
type row struct {
	Name     string  `json:"name"`
	Unit     string  `json:"unit"`
	Measured spread  `json:"measured"`
	Floor    *spread `json:"floor,omitempty"`
	Ratio    *spread `json:"ratio,omitempty"`
	Target   string  `json:"target,omitempty"`
	// Reached says whether the median reached the target; nil where there is none.
	Reached *bool  `json:"reached,omitempty"`
	Note    string `json:"note,omitempty"`
}

func newRow(name, unit string, rounds []float64) row {
	return row{Name: name, Unit: unit, Measured: spreadOf(rounds)}
}

// beside adds the floor, measured in the same rounds.
func (r row) beside(rounds, floor []float64) row {
	f, ratio := spreadOf(floor), spreadOf(ratios(rounds, floor))
	r.Floor, r.Ratio = &f, &ratio
	return r
}

// atMost and atLeast judge the median, ratioAtMost and ratioAtLeast that of the ratios.
func (r row) atMost(target float64) row {
	return r.judge("≤ ", number(target), r.Measured.Median <= target)
}

func (r row) atLeast(target float64) row {
	return r.judge("≥ ", number(target), r.Measured.Median >= target)
}

func (r row) ratioAtMost(target float64) row {
	return r.judge("ratio ≤ ", number(target), r.Ratio.Median <= target)
}

func (r row) ratioAtLeast(target float64) row {
	return r.judge("ratio ≥ ", number(target), r.Ratio.Median >= target)
}

func (r row) judge(relation, target string, reached bool) row {
	r.Target, r.Reached = relation+target, &reached
	return r
}

// unjudgedTime leaves out a target that is no ratio.
func (r row) unjudgedTime() row {
	if !strings.HasPrefix(r.Target, "ratio") {
		r.Target, r.Reached = "", nil
	}
	return r
}

func (r row) with(format string, args ...any) row {
	r.Note = fmt.Sprintf(format, args...)
	return r
}

// report is the whole result.
type report struct {
	Machine machine `json:"machine"`
	Rows    []row   `json:"rows"`
	out     io.Writer
}

// chapter prints rows as they come: a long run shows what it has.
func (r *report) chapter(title string, rows ...row) {
	if r.Machine.Emulated {
		for i := range rows {
			rows[i] = rows[i].unjudgedTime()
		}
	}
	r.Rows = append(r.Rows, rows...)
	fmt.Fprintf(r.out, "\n## %s\n\n", title)
	table := tabwriter.NewWriter(r.out, 0, 0, 1, ' ', tabwriter.Debug)
	fmt.Fprintln(table,
		"| what \t unit \t median \t min – max \t floor \t ratio (min – max) \t target \t reached \t")
	fmt.Fprintln(table, "|---\t---\t---\t---\t---\t---\t---\t---\t")
	for _, row := range rows {
		fmt.Fprintf(table, "| %s \t %s \t %s \t %s – %s \t %s \t %s \t %s \t %s \t\n", row.Name,
			row.Unit, number(row.Measured.Median), number(row.Measured.Min), number(row.Measured.Max),
			row.floor(), row.ratio(), row.Target, row.verdict())
	}
	_ = table.Flush() // as with fmt.Fprint: nothing can be done when the terminal is gone
	for _, row := range rows {
		if row.Note != "" {
			fmt.Fprintf(r.out, "\n%s\n", row.Note)
		}
	}
}

func (r row) floor() string {
	if r.Floor == nil {
		return ""
	}
	return number(r.Floor.Median)
}

func (r row) ratio() string {
	if r.Ratio == nil {
		return ""
	}
	return fmt.Sprintf("%.2f (%.2f – %.2f)", r.Ratio.Median, r.Ratio.Min, r.Ratio.Max)
}

func (r row) verdict() string {
	switch {
	case r.Reached == nil:
		return ""
	case *r.Reached:
		return "yes"
	default:
		return "**no**"
	}
}

// number has three digits that count, as many as such a measurement has.
func number(f float64) string {
	switch {
	case math.Abs(f) >= 100 || f == math.Trunc(f):
		return strconv.FormatFloat(f, 'f', 0, 64)
	default:
		return strconv.FormatFloat(f, 'g', 3, 64)
	}
}

// writeJSON puts the report into a file, for a program to compare.
func (r *report) writeJSON(file string) error {
	content, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(file, append(content, '\n'), 0o644)
}

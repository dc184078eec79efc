// Package report judges and prints what benchmarks have measured: medians over rounds, ratios to a
// floor that was measured in the same rounds, and targets.
package report

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

// Row is a line of the report. Measured and Floor are over the rounds, Ratio is measured to floor,
// round by round.
type Row struct {
	Name     string  `json:"name"`
	Unit     string  `json:"unit"`
	Measured Spread  `json:"measured"`
	Floor    *Spread `json:"floor,omitempty"`
	Ratio    *Spread `json:"ratio,omitempty"`
	Target   string  `json:"target,omitempty"`
	// Reached says whether the median reached the target; nil where there is none.
	Reached *bool  `json:"reached,omitempty"`
	Note    string `json:"note,omitempty"`
}

// NewRow makes a row of one value for each round.
func NewRow(name, unit string, rounds []float64) Row {
	return Row{Name: name, Unit: unit, Measured: SpreadOf(rounds)}
}

// Beside adds the floor, measured in the same rounds.
func (r Row) Beside(rounds, floor []float64) Row {
	f, ratio := SpreadOf(floor), SpreadOf(Ratios(rounds, floor))
	r.Floor, r.Ratio = &f, &ratio
	return r
}

// AtMost judges the median.
func (r Row) AtMost(target float64) Row {
	return r.judge("≤ ", Number(target), r.Measured.Median <= target)
}

// AtLeast judges the median.
func (r Row) AtLeast(target float64) Row {
	return r.judge("≥ ", Number(target), r.Measured.Median >= target)
}

// RatioAtMost judges the median of the ratios. The row has a floor.
func (r Row) RatioAtMost(target float64) Row {
	return r.judge("ratio ≤ ", Number(target), r.Ratio.Median <= target)
}

// RatioAtLeast judges the median of the ratios. The row has a floor.
func (r Row) RatioAtLeast(target float64) Row {
	return r.judge("ratio ≥ ", Number(target), r.Ratio.Median >= target)
}

func (r Row) judge(relation, target string, reached bool) Row {
	r.Target, r.Reached = relation+target, &reached
	return r
}

// unjudgedTime leaves out a target that is no ratio.
func (r Row) unjudgedTime() Row {
	if !strings.HasPrefix(r.Target, "ratio") {
		r.Target, r.Reached = "", nil
	}
	return r
}

// With adds a note, which is printed below the table.
func (r Row) With(format string, args ...any) Row {
	r.Note = fmt.Sprintf(format, args...)
	return r
}

// Report is the whole result.
type Report struct {
	Machine Machine `json:"machine"`
	Rows    []Row   `json:"rows"`
	out     io.Writer
}

// New begins a report, which is printed to out chapter by chapter.
func New(out io.Writer, on Machine) *Report {
	on.Print(out)
	return &Report{Machine: on, out: out}
}

// Chapter prints rows as they come: a long run shows what it has.
func (r *Report) Chapter(title string, rows ...Row) {
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
			row.Unit, Number(row.Measured.Median), Number(row.Measured.Min), Number(row.Measured.Max),
			row.floor(), row.ratio(), row.Target, row.verdict())
	}
	_ = table.Flush() // as with fmt.Fprint: nothing can be done when the terminal is gone
	for _, row := range rows {
		if row.Note != "" {
			fmt.Fprintf(r.out, "\n%s\n", row.Note)
		}
	}
}

func (r Row) floor() string {
	if r.Floor == nil {
		return ""
	}
	return Number(r.Floor.Median)
}

func (r Row) ratio() string {
	if r.Ratio == nil {
		return ""
	}
	return fmt.Sprintf("%.2f (%.2f – %.2f)", r.Ratio.Median, r.Ratio.Min, r.Ratio.Max)
}

func (r Row) verdict() string {
	switch {
	case r.Reached == nil:
		return ""
	case *r.Reached:
		return "yes"
	default:
		return "**no**"
	}
}

// Number has three digits that count, as many as such a measurement has.
func Number(f float64) string {
	switch {
	case math.Abs(f) >= 100 || f == math.Trunc(f):
		return strconv.FormatFloat(f, 'f', 0, 64)
	default:
		return strconv.FormatFloat(f, 'g', 3, 64)
	}
}

// WriteJSON puts the report into a file, for a program to compare.
func (r *Report) WriteJSON(file string) error {
	content, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(file, append(content, '\n'), 0o644)
}

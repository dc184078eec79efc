package vm

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync/atomic"
	"time"

	"github.com/csi-hostpath/csi-hostpath/test/vm/internal/job"
)

// frame marks the lines in a test's output that the testing package has written: see `go doc
// test2json`.
const frame = "\x16"

// watch follows one boot.
type watch struct {
	boot     Boot
	logf     Logf
	binaries []binary
	runs     []run

	ready    func(slowness float64) // is called once, when the machine has booted
	done     bool
	fault    string
	timer    *time.Timer // runs out when the power goes
	powerOff atomic.Bool
}

// run is what is known of a binary.
type run struct {
	output strings.Builder
	logged int // how much of the output is in the log
	exited bool
	code   int
}

func newWatch(binaries []binary, boot Boot, logf Logf) *watch {
	return &watch{boot: boot, logf: logf, binaries: binaries, runs: make([]run, len(binaries))}
}

// follow reads the machine's events to their end, and calls cutPower when the boot says so.
func (w *watch) follow(events io.Reader, cutPower func() error) error {
	lines := bufio.NewReader(events)
	for {
		line, err := lines.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			break // a power cut may have cut the last line
		}
		if err != nil {
			return err
		}
		var event job.Event
		if err := json.Unmarshal(line, &event); err != nil {
			return fmt.Errorf("the machine has said %q: %w", line, err)
		}
		w.take(event, cutPower)
	}
	if w.timer != nil {
		w.timer.Stop()
	}
	for i := range w.runs {
		w.log(&w.runs[i], len(w.runs[i].output.String()))
	}
	return nil
}

func (w *watch) take(event job.Event, cutPower func() error) {
	switch event.Kind {
	case job.Ready:
		w.logf("vm: %s", event.Text)
		w.ready(event.Slowness)
	case job.Done:
		w.done = true
	case job.Fault:
		w.fault = event.Text
	case job.Exit:
		w.runs[event.Program].exited = true
		w.runs[event.Program].code = event.ExitCode
	case job.Output:
		r := &w.runs[event.Program]
		r.output.WriteString(event.Text)
		if end := strings.LastIndexByte(r.output.String(), '\n') + 1; end > r.logged {
			w.armed(r.output.String()[r.logged:end], cutPower)
			w.log(r, end)
		}
	}
}

// armed starts the clock of the power cut at the line that asks for it.
func (w *watch) armed(lines string, cutPower func() error) {
	if !w.boot.PowerCut || w.timer != nil || !strings.Contains(lines, job.PowerCutLine) {
		return
	}
	w.timer = time.AfterFunc(w.boot.CutDelay, func() {
		w.powerOff.Store(true)
		if err := cutPower(); err != nil {
			w.powerOff.Store(false)
		}
	})
}

func (w *watch) log(r *run, end int) {
	text := r.output.String()[r.logged:end]
	r.logged = end
	if text = readable(text); text != "" {
		w.logf("%s", text)
	}
}

// readable leaves out what only test2json reads.
func readable(text string) string {
	var b strings.Builder
	for line := range strings.Lines(text) {
		if line = strings.TrimPrefix(line, frame); !strings.HasPrefix(line, "=== NAME") {
			b.WriteString(line)
		}
	}
	return strings.TrimSuffix(b.String(), "\n")
}

// cut tells whether the power was cut.
func (w *watch) cut() bool { return w.powerOff.Load() }

// verdict is what was wrong with the way in which the machine has ended.
func (w *watch) verdict() error {
	switch {
	case w.fault != "":
		return errors.New(w.fault)
	case w.boot.PowerCut && !w.cut():
		return errors.New(
			"no test has called guest.CutPower or guest.AllowPowerCut, or the tests had ended before the delay",
		)
	case !w.boot.PowerCut && !w.done:
		return errors.New("the machine has ended before the tests did")
	default:
		return nil
	}
}

// results leaves out those that had no turn.
func (w *watch) results(ctx context.Context) ([]Result, error) {
	var results []Result
	for i := range w.runs {
		r := &w.runs[i]
		if !r.exited && r.output.Len() == 0 {
			continue
		}
		tests, err := parseTests(ctx, w.binaries[i].importPath, r.output.String())
		if err != nil {
			return results, err
		}
		results = append(results, Result{Package: w.binaries[i].name, ExitCode: r.code, Tests: tests})
	}
	return results, nil
}

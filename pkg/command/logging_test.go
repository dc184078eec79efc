package command

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/spf13/pflag"
	"k8s.io/klog/v2"
)

// logWith parses the flags and applies them. After the test it restores klog's state, which belongs
// to the process.
func logWith(t *testing.T, w *bytes.Buffer, args ...string) error {
	t.Helper()
	state, logger, writer, flags := klog.CaptureState(), slog.Default(), log.Writer(), log.Flags()
	t.Cleanup(func() {
		state.Restore()
		slog.SetDefault(logger)
		log.SetOutput(writer)
		log.SetFlags(flags)
	})
	l, fs := NewLoggingFlags(), pflag.NewFlagSet("test", pflag.ContinueOnError)
	l.Register(fs)
	if err := fs.Parse(args); err != nil {
		t.Fatal(err)
	}
	return l.Apply(w)
}

func TestJSONLogIsAnObjectALineAtTheChosenVerbosity(t *testing.T) {
	var out bytes.Buffer
	if err := logWith(t, &out, "--logging-format=json", "-v", "4"); err != nil {
		t.Fatal(err)
	}
	logger := klog.FromContext(context.Background())
	logger.Info("at zero", "volume", "pvc-1", "took", 90*time.Second)
	logger.V(4).Info("at four")
	logger.V(5).Info("at five")
	logger.Error(errors.New("broken"), "failed")
	klog.V(4).InfoS("uncontextual")
	klog.V(5).InfoS("uncontextual at five")
	log.Print("somebody's log")
	var got []string
	for line := range strings.Lines(out.String()) {
		var entry struct {
			Level, Source, Msg, Volume, Took, Err string
			V                                     int
		}
		if err := json.Unmarshal([]byte(line), &entry); err != nil {
			t.Fatalf("%v in %s", err, line)
		}
		if entry.Msg != "somebody's log" && !strings.HasPrefix(entry.Source, "logging_test.go:") {
			t.Errorf("source %q in %s", entry.Source, line)
		}
		words := []string{
			entry.Level,
			strings.Repeat("v", entry.V),
			entry.Msg,
			entry.Volume,
			entry.Took,
			entry.Err,
		}
		got = append(got, strings.Join(strings.Fields(strings.Join(words, " ")), " "))
	}
	want := []string{
		"INFO at zero pvc-1 1m30s",
		"INFO vvvv at four",
		"ERROR failed broken",
		"INFO vvvv uncontextual",
		"INFO somebody's log",
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("got\n%s\nwant\n%s\nfrom\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"),
			out.String())
	}
}

func TestTextLogIsKlogs(t *testing.T) {
	var out bytes.Buffer
	if err := logWith(t, &out, "--v=2"); err != nil {
		t.Fatal(err)
	}
	if !klog.V(2).Enabled() || klog.V(3).Enabled() {
		t.Error("-v=2 is not honoured")
	}
	if out.Len() > 0 {
		t.Errorf("text was written to the JSON writer: %s", out.String())
	}
}

func TestLoggingFlagsThatCannotBeHonouredAreRefused(t *testing.T) {
	for _, c := range []struct{ args, want string }{
		{"--logging-format=xml", `--logging-format: "xml" must be text or json`},
		{"--logging-format=json --vmodule=pool=5", "--vmodule: works with --logging-format=text only"},
	} {
		if err := logWith(
			t,
			new(bytes.Buffer),
			strings.Fields(c.args)...); err == nil ||
			err.Error() != c.want {
			t.Errorf("%s: got %v, want %s", c.args, err, c.want)
		}
	}
}

package command

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"strconv"

	"github.com/spf13/pflag"
	"k8s.io/klog/v2"
)

// The log formats.
const (
	LogText = "text"
	LogJSON = "json"
)

// LoggingFlags sets how the process logs. Code logs through klog.FromContext(ctx), structured, in
// both formats.
type LoggingFlags struct {
	// Format is LogText (klog's lines) or LogJSON (an object a line). Default text.
	Format string
	klog   flag.FlagSet
}

// NewLoggingFlags has the default flags.
func NewLoggingFlags() *LoggingFlags {
	l := &LoggingFlags{Format: LogText}
	klog.InitFlags(&l.klog)
	return l
}

// Register adds --logging-format, and klog's -v and --vmodule. klog's other flags are about log
// files.
func (l *LoggingFlags) Register(fs *pflag.FlagSet) {
	fs.StringVar(&l.Format, "logging-format", l.Format, "text or json")
	for _, name := range []string{"v", "vmodule"} {
		fs.AddGoFlag(l.klog.Lookup(name))
	}
}

// Apply configures the process's log. JSON goes to w, text to standard error, as klog does. Call it
// once, before anything logs.
func (l *LoggingFlags) Apply(w io.Writer) error {
	verbosity, err := strconv.Atoi(l.klog.Lookup("v").Value.String())
	// For slog a negative verbosity would be a level above that of every message.
	if err != nil || verbosity < 0 {
		return fmt.Errorf("--v: %d must be 0 or more", verbosity)
	}
	switch l.Format {
	case LogText:
		return nil
	case LogJSON:
		return l.applyJSON(w, slog.Level(-verbosity)) // logr's V(n) is slog's level -n
	default:
		return fmt.Errorf("--logging-format: %s must be %s or %s", strconv.Quote(l.Format), LogText,
			LogJSON)
	}
}

func (l *LoggingFlags) applyJSON(w io.Writer, level slog.Level) error {
	// Only klog's own writer knows the file of a line before it makes the line.
	if l.klog.Lookup("vmodule").Value.String() != "" {
		return errors.New("--vmodule: works with --logging-format=text only")
	}
	logger := slog.New(slog.NewJSONHandler(w, &slog.HandlerOptions{
		AddSource:   true,
		Level:       level,
		ReplaceAttr: plainAttr,
	}))
	klog.SetSlogLogger(logger)
	slog.SetDefault(logger) // and package log with it: every line is JSON
	return nil
}

// plainAttr writes slog's level DEBUG+3 as level INFO with "v":1, which log pipelines know from
// Kubernetes, the source as file:line, and a duration with its unit.
func plainAttr(groups []string, a slog.Attr) slog.Attr {
	if a.Value.Kind() == slog.KindDuration {
		return slog.String(a.Key, a.Value.Duration().String())
	}
	if len(groups) > 0 {
		return a
	}
	switch v := a.Value.Any().(type) {
	case slog.Level:
		if a.Key == slog.LevelKey && v < slog.LevelInfo {
			return slog.Group("", slog.String(slog.LevelKey, slog.LevelInfo.String()),
				slog.Int("v", int(-v)))
		}
	case *slog.Source:
		if a.Key == slog.SourceKey && v != nil {
			if v.File == "" { // from package log
				return slog.Attr{}
			}
			return slog.String(slog.SourceKey, filepath.Base(v.File)+":"+strconv.Itoa(v.Line))
		}
	}
	return a
}

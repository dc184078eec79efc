package driver

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

// LoggingFlags says how the process logs. Code logs through klog.FromContext(ctx), structured, in
// either format.
type LoggingFlags struct {
	// Format is LogText (klog's lines) or LogJSON (an object a line). Default text.
	Format string
	klog   flag.FlagSet
}

// NewLoggingFlags is logging with its defaults.
func NewLoggingFlags() *LoggingFlags {
	l := &LoggingFlags{Format: LogText}
	klog.InitFlags(&l.klog)
	return l
}

// Register adds --logging-format and those of klog's flags that matter in a container: -v and
// --vmodule. The others are about log files.
func (l *LoggingFlags) Register(fs *pflag.FlagSet) {
	fs.StringVar(&l.Format, "logging-format", l.Format, "text or json")
	for _, name := range []string{"v", "vmodule"} {
		fs.AddGoFlag(l.klog.Lookup(name))
	}
}

// Apply makes the process log as the parsed flags say; JSON goes to w, text where klog writes
// (standard error). Call it once, before anything logs.
func (l *LoggingFlags) Apply(w io.Writer) error {
	verbosity, err := strconv.Atoi(l.klog.Lookup("v").Value.String())
	// slog would take a negative one for a level above that of every message
	if err != nil || verbosity < 0 {
		return fmt.Errorf("--v: %d must be 0 or more", verbosity)
	}
	switch l.Format {
	case LogText:
		return nil
	case LogJSON:
		return l.applyJSON(w, slog.Level(-verbosity)) // logr's V(n) is slog's level -n
	default:
		return fmt.Errorf("--logging-format: %s must be %s or %s", quote(l.Format), LogText, LogJSON)
	}
}

func (l *LoggingFlags) applyJSON(w io.Writer, level slog.Level) error {
	// Only klog's own writer knows which file a line comes from before it is made.
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

// plainAttr writes what slog calls DEBUG+3 as level INFO with "v":1, which is what log pipelines
// know from Kubernetes, the source as file:line, and a duration as people do.
func plainAttr(groups []string, a slog.Attr) slog.Attr {
	if a.Value.Kind() == slog.KindDuration {
		// with its unit, not bare nanoseconds
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
			if v.File == "" { // package log does not say
				return slog.Attr{}
			}
			return slog.String(slog.SourceKey, filepath.Base(v.File)+":"+strconv.Itoa(v.Line))
		}
	}
	return a
}

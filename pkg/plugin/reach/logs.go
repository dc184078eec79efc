package reach

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	core "k8s.io/api/core/v1"
)

// Line is a line of a container's log.
type Line struct {
	Time      time.Time
	Pod       string
	Container string
	Text      string
}

// LogOptions say which lines of a log are read.
type LogOptions struct {
	Since    time.Duration // 0: all that kubelet has
	Tail     int64         // the last lines at most; 0: all
	Previous bool          // of the container before the last restart
	Follow   bool          // also what is logged until the context ends
}

// maxLineBytes is more than any line of a log.
const maxLineBytes = 1 << 20

// Log calls each for each line of a container's log, in order. Errors: those of the API server.
func (p Pods) Log(
	ctx context.Context, pod *core.Pod, container string, o LogOptions, each func(Line),
) error {
	opts := &core.PodLogOptions{
		Container: container, Timestamps: true, Previous: o.Previous, Follow: o.Follow,
	}
	if o.Since > 0 {
		seconds := int64(max(1, o.Since/time.Second))
		opts.SinceSeconds = &seconds
	}
	if o.Tail > 0 {
		opts.TailLines = &o.Tail
	}
	log, err := p.Client.CoreV1().Pods(pod.Namespace).GetLogs(pod.Name, opts).Stream(ctx)
	if err != nil {
		return fmt.Errorf("read the log of %s/%s, container %s: %w", pod.Namespace, pod.Name, container,
			err)
	}
	defer log.Close()
	return eachLine(log, func(text string) {
		each(parseLine(pod.Name, container, text))
	})
}

func eachLine(r io.Reader, each func(string)) error {
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, maxLineBytes)
	for lines.Scan() {
		each(lines.Text())
	}
	return lines.Err()
}

// parseLine takes the time off that kubelet has put before the line.
func parseLine(pod, container, text string) Line {
	l := Line{Pod: pod, Container: container, Text: text}
	stamp, rest, ok := strings.Cut(text, " ")
	if t, err := time.Parse(time.RFC3339Nano, stamp); ok && err == nil {
		l.Time, l.Text = t, rest
	}
	return l
}

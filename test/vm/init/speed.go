package main

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/csi-hostpath/csi-hostpath/test/vm/internal/job"
)

const (
	// calibrationRounds of work took usualTime on two idle cores of 2024 that emulate this processor.
	calibrationRounds = 10_000
	usualTime         = 500 * time.Millisecond
)

// slowness is how many times longer than usual this machine took for what tests do: allocate, copy
// and compare. It is at least 1. Another QEMU or a compiler beside it makes it larger.
func slowness() (times float64, took time.Duration, err error) {
	begin := time.Now()
	for i := range calibrationRounds {
		in := job.Job{Programs: []job.Program{
			{Path: fmt.Sprint("/bin/", i), Args: []string{"a", "b", "c"}},
		}}
		text, err := json.Marshal(in)
		if err != nil {
			return 0, 0, err
		}
		var out job.Job
		if err := json.Unmarshal(text, &out); err != nil {
			return 0, 0, err
		}
	}
	took = time.Since(begin)
	return max(1, float64(took)/float64(usualTime)), took, nil
}

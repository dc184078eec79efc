package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/csi-hostpath/csi-hostpath/test/process"
	"github.com/csi-hostpath/csi-hostpath/test/report"
)

// manyLinks measures the controller with thousands of nodes, and its restart.
func (b *bench) manyLinks(ctx context.Context) (err error) {
	pools, err := poolsFor(b.linked)
	if err != nil {
		return err
	}
	f, err := b.newFleet(ctx, fleetOptions{nodes: b.linked, replicas: 1, pools: pools})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.close(b.keep)) }()
	b.progress("making %d volumes", b.volumes)
	err = inParallel(ctx, b.volumes, func(ctx context.Context, i int) error {
		n := f.nodes[i%pools]
		_, err := createVolume(ctx, local{n.service}, n.name)
		return err
	})
	if err != nil {
		return err
	}
	for _, n := range f.nodes {
		n.state.changed()
	}
	var seconds, resident, most []float64
	for round := range b.rounds {
		b.progress("round %d", round+1)
		took, err := f.restart(ctx)
		if err != nil {
			return err
		}
		sleep(ctx, settling)
		now, peak, err := process.Memory(f.replicas[0].now().PID())
		if err != nil {
			return err
		}
		seconds = append(seconds, took.Seconds())
		resident, most = append(resident, now), append(most, peak)
	}
	nodes, _, err := process.Memory(os.Getpid())
	if err != nil {
		return err
	}
	b.report.Chapter(
		fmt.Sprintf("%d linked nodes, %d volumes", b.linked, b.volumes),
		report.NewRow("controller killed, until all nodes are linked again", "s", seconds).AtMost(30),
		report.NewRow("controller, resident", "MiB", resident).AtMost(300),
		report.NewRow("– at most since its start", "MiB", most).
			With("Each link costs a TokenReview. The volumes are in the pools of %d nodes: the descriptors of "+
				"this process are enough for so many. The simulated nodes take %s MiB together.", pools,
				report.Number(nodes)),
	)
	return nil
}

const (
	// poolFiles is how many descriptors a pool takes, at most.
	poolFiles = 7
	// otherFiles is how many descriptors the bench needs besides, at most.
	otherFiles = 1000
)

// poolsFor is how many of linked nodes can have a pool in this process.
func poolsFor(linked int) (int, error) {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return 0, os.NewSyscallError("getrlimit", err)
	}
	room := (int(min(limit.Max, math.MaxInt32)) - otherFiles - linked) / poolFiles
	if room < 1 {
		return 0, fmt.Errorf("%d nodes need more than %d descriptors: raise ulimit -n", linked, limit.Max)
	}
	return min(linked, room), nil
}

// settling is how long a controller has after its start before its memory is measured.
const settling = 10 * time.Second

// restart kills the controller, and waits until all nodes are linked to the next one.
func (f *fleet) restart(ctx context.Context) (time.Duration, error) {
	start := time.Now()
	if err := f.replicas[0].now().Kill(); err != nil {
		return 0, err
	}
	err := f.wait(ctx, "the end of all links", func(context.Context) (string, error) {
		for _, n := range f.nodes {
			if n.state.watching.Load() > 0 && n.state.since.Load() < start.UnixNano() {
				return n.name + " is linked to the controller that was killed", nil
			}
		}
		return "", nil
	})
	if err != nil {
		return 0, err
	}
	err = f.waitLinked(ctx, 1)
	return time.Since(start), err
}

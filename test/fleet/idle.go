package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/csi-hostpath/csi-hostpath/test/report"
)

// idleCluster counts what everything of the driver asks the API server while nothing happens: two
// replicas, each with its sidecars, as the chart has them.
func (b *bench) idleCluster(ctx context.Context) (err error) {
	const replicas = 2
	f, err := b.newFleet(ctx, fleetOptions{nodes: b.nodes, replicas: replicas})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.close(b.keep)) }()
	for i := range replicas {
		if err := errors.Join(f.startProvisioner(ctx, i), f.startResizer(ctx, i)); err != nil {
			return err
		}
	}
	if _, err := f.bind(ctx, "idle", classWait, min(b.nodes, 100)); err != nil {
		return err
	}
	if err := f.settle(ctx); err != nil {
		return err
	}
	var all, nodes []float64
	perAgent := map[string]int{}
	for range b.rounds {
		sleep(ctx, b.idle)
		requests, err := f.audit(ctx)
		if err != nil {
			return err
		}
		ours, fromNodes := 0, 0
		for _, r := range requests {
			if r.isOurs() {
				ours++
				perAgent[r.agent()+" "+r.Verb+" "+r.resource()]++
			}
			if strings.HasSuffix(r.User.Username, ":"+nodeAccount) {
				fromNodes++
			}
		}
		seconds := (b.idle + auditDelay).Seconds()
		all = append(all, float64(ours)/seconds)
		nodes = append(nodes, float64(fromNodes)/seconds)
	}
	b.report.Chapter(
		fmt.Sprintf("%d nodes with nothing to do; two replicas with csi-provisioner and csi-resizer",
			b.nodes),
		report.NewRow("API requests of everything of the driver", "1/s", all).AtMost(2).
			With("In all rounds: %s", counts(perAgent)),
		report.NewRow("API requests of nodes", "1/s", nodes).AtMost(0),
	)
	return ctx.Err()
}

// quietFor is for how long nothing must be written before a cluster is idle.
const quietFor = 5 * time.Second

// settle waits until the driver's deployment writes nothing but leases: the capacities are
// published by then.
func (f *fleet) settle(ctx context.Context) error {
	return f.wait(ctx, "the end of all writes", func(ctx context.Context) (string, error) {
		sleep(ctx, quietFor)
		requests, err := f.audit(ctx)
		writes := 0
		for _, r := range requests {
			if r.isOurs() && r.isWrite() && r.ObjectRef.Resource != "leases" {
				writes++
			}
		}
		if writes > 0 {
			return fmt.Sprintf("%d writes in %s", writes, quietFor), err
		}
		return "", err
	})
}

// counts lists numbers in words, the largest first.
func counts[N int | float64](of map[string]N) string {
	names := slices.SortedFunc(maps.Keys(of), func(a, b string) int {
		return cmp.Or(cmp.Compare(of[b], of[a]), strings.Compare(a, b))
	})
	var all []string
	for _, name := range names {
		all = append(all, name+" "+report.Number(float64(of[name])))
	}
	return strings.Join(all, ", ")
}

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/csi-hostpath/csi-hostpath/test/process"
	"github.com/csi-hostpath/csi-hostpath/test/report"
)

// lifeNodes is how many nodes the deployments are compared on: in node deployment each has its own
// csi-provisioner.
const lifeNodes = 3

// lives is how many volumes live in a round.
const lives = 10 * lifeNodes

// writesOfLife counts what is written to the API in the life of a volume, from the claim to its
// deletion, in both deployments, and with csi-provisioner as csi-driver-host-path has it.
func (b *bench) writesOfLife(ctx context.Context) error {
	central, err := b.livesIn(ctx, (*fleet).startCentral)
	if err != nil {
		return fmt.Errorf("central deployment: %w", err)
	}
	nodes, err := b.livesIn(ctx, (*fleet).startOnNodes, (*fleet).startReference)
	if err != nil {
		return fmt.Errorf("node deployment: %w", err)
	}
	b.report.Chapter(
		"The life of a volume, from claim to deletion: central deployment; floor: node deployment",
		beside(central[0], nodes[0])...)
	b.report.Chapter("The same; floor: csi-provisioner as csi-driver-host-path 1.17 has it on nodes",
		beside(central[0], nodes[1])...)
	return nil
}

// beside compares the central deployment with another one.
func beside(central, other *writesPerLife) []report.Row {
	return []report.Row{
		report.NewRow("writes to the API by the driver's deployment", "requests", central.writes).
			Beside(central.writes, other.writes).RatioAtMost(1).
			With("Central, per life: %s\n\nThe other, per life: %s",
				perLife(central.kinds, len(central.writes)), perLife(other.kinds, len(other.writes))),
		report.NewRow("– and by Kubernetes", "requests", central.others).
			Beside(central.others, other.others),
		report.NewRow("objects made by the driver's deployment", "objects", central.objects).
			Beside(central.objects, other.objects).RatioAtMost(1),
	}
}

// writesPerLife has the means of each round.
type writesPerLife struct {
	writes, others, objects []float64
	kinds                   map[string]int // over all rounds
}

// perLife lists how often each kind of request was sent in one life.
func perLife(kinds map[string]int, rounds int) string {
	scaled := map[string]float64{}
	for kind, count := range kinds {
		scaled[kind] = float64(count) / float64(rounds*lives)
	}
	return counts(scaled)
}

// livesIn has volumes live in each of some deployments, which replace each other in one cluster.
func (b *bench) livesIn(
	ctx context.Context, starts ...func(*fleet, context.Context) error,
) (all []*writesPerLife, err error) {
	f, err := b.newFleet(ctx, fleetOptions{nodes: lifeNodes, replicas: 1})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.close(b.keep)) }()
	for i, start := range starts {
		if err := start(f, ctx); err != nil {
			return nil, err
		}
		w, err := f.countLives(ctx, fmt.Sprintf("life-%d", i), b.rounds)
		if err != nil {
			return nil, err
		}
		all = append(all, w)
	}
	return all, nil
}

func (f *fleet) countLives(
	ctx context.Context, prefix string, rounds int,
) (*writesPerLife, error) {
	// The first lives also make what stays: leases, capacities.
	if err := f.live(ctx, prefix+"-first"); err != nil {
		return nil, err
	}
	if _, err := f.audit(ctx); err != nil {
		return nil, err
	}
	w := &writesPerLife{kinds: map[string]int{}}
	for round := range rounds {
		if err := f.live(ctx, fmt.Sprintf("%s-%d", prefix, round)); err != nil {
			return nil, err
		}
		requests, err := f.audit(ctx)
		if err != nil {
			return nil, err
		}
		w.count(requests)
	}
	return w, nil
}

// count leaves out leases, which are written also when no volume lives.
func (w *writesPerLife) count(requests []request) {
	var ours, others, objects int
	for _, r := range requests {
		switch {
		case !r.isWrite() || r.ObjectRef.Resource == "leases" || r.agent() == benchAgent:
		case r.isOurs():
			ours++
			w.kinds[r.agent()+" "+r.Verb+" "+r.resource()]++
			if r.Verb == "create" && r.ObjectRef.Subresource == "" {
				objects++
			}
		default:
			others++
		}
	}
	w.writes = append(w.writes, float64(ours)/lives)
	w.others = append(w.others, float64(others)/lives)
	w.objects = append(w.objects, float64(objects)/lives)
}

// live binds claims on all nodes, deletes them, and waits until their volumes are gone.
func (f *fleet) live(ctx context.Context, prefix string) error {
	const perNode = lives / lifeNodes
	for part := range perNode {
		if _, err := f.bind(ctx, fmt.Sprintf("%s-%d", prefix, part), classWait, lifeNodes); err != nil {
			return err
		}
	}
	err := f.client.CoreV1().PersistentVolumeClaims(namespace).DeleteCollection(ctx,
		metav1.DeleteOptions{}, metav1.ListOptions{})
	if err != nil {
		return err
	}
	return f.wait(ctx, "the end of all volumes", func(ctx context.Context) (string, error) {
		list, err := f.client.CoreV1().PersistentVolumes().List(ctx, metav1.ListOptions{})
		if err != nil || len(list.Items) == 0 {
			return "", err
		}
		return fmt.Sprintf("%d are there", len(list.Items)), nil
	})
}

func (f *fleet) startCentral(ctx context.Context) error {
	return f.startProvisioner(ctx, 0)
}

// startOnNodes replaces the controller by drivers with a csi-provisioner each.
func (f *fleet) startOnNodes(ctx context.Context) error {
	binary, err := process.Build(ctx, f.dir)
	if err != nil {
		return err
	}
	for _, replica := range f.replicas {
		if err := replica.stop(); err != nil {
			return err
		}
	}
	f.replicas = nil
	for i := range lifeNodes {
		if err := f.startOnNode(ctx, binary, nodeName(i)); err != nil {
			return err
		}
	}
	return nil
}

func (f *fleet) startOnNode(ctx context.Context, binary, name string) error {
	driver, err := f.startDriver(ctx, binary, name)
	if err != nil {
		return err
	}
	return f.startNodeProvisioner(name, driver.Socket(), nodeProvisioning...)
}

// startReference replaces the sidecars on nodes by those of csi-driver-host-path. Its driver itself
// writes nothing to the API; the module cannot be had from Go's proxy, so ours stands in for it.
func (f *fleet) startReference(context.Context) error {
	for _, p := range f.sidecars {
		if err := p.stop(); err != nil {
			return err
		}
	}
	f.sidecars = nil
	for i, driver := range f.drivers {
		if err := f.startNodeProvisioner(nodeName(i), driver.Socket(), reference...); err != nil {
			return err
		}
	}
	return nil
}

// startDriver starts the real driver of a node, with a pool of its own.
func (f *fleet) startDriver(
	ctx context.Context, binary, name string, args ...string,
) (*process.Process, error) {
	dir := f.path("driver-" + name)
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, err
	}
	driver, err := process.StartReady(ctx, process.Options{
		Binary: binary,
		Dir:    dir,
		Pools:  map[string]string{poolName: filepath.Join(f.path("pools"), "driver-"+name)},
		Args:   append([]string{"--node-name=" + name, "--driver-name=" + driverName}, args...),
	})
	if err == nil {
		f.drivers = append(f.drivers, driver)
	}
	return driver, err
}

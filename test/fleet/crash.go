package main

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"time"

	"golang.org/x/sync/errgroup"
	core "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/csi-hostpath/csi-hostpath/test/report"
)

const (
	// crashNodes is how many nodes the claims are made on, at most.
	crashNodes = 100
	// crashReplicas die in turn.
	crashReplicas = 2
)

// crashes makes and deletes claims while the replicas of the controller are killed in turn, a node
// has no network for a while, and the CA is replaced. Then it compares what the nodes have with
// what Kubernetes has.
func (b *bench) crashes(ctx context.Context) error {
	var settled []float64
	var found faults
	kills := 0
	for round := range b.rounds {
		b.progress("round %d", round+1)
		c, err := b.crashOnce(ctx)
		if err != nil {
			return err
		}
		settled = append(settled, c.settled.Seconds())
		kills += c.kills
		found.add(c.faults)
	}
	of := func(name string, count int) report.Row {
		return report.NewRow(name, "volumes", []float64{float64(count)}).AtMost(0)
	}
	b.report.Chapter(
		fmt.Sprintf("%d claims on %d nodes, every fourth deleted, while one of two replicas is killed "+
			"every %s, a node has no network for %s, and the CA is replaced; all rounds together",
			b.burst, min(b.nodes, crashNodes), b.kills, b.cut),
		of("lost: of a persistent volume, but on no node", found.lost),
		of("made twice: on more than one node", found.twice),
		of("leaked: on a node, but of no persistent volume", found.leaked),
		report.NewRow("all claims bound or gone, after the last kill", "s", settled).
			With("The replicas were killed %d times.", kills),
	)
	return nil
}

// crash is one round.
type crash struct {
	*fleet

	bench   *bench
	kills   int
	ended   time.Time // of the disturbances
	settled time.Duration
	faults  faults
}

// faults count volumes.
type faults struct{ lost, twice, leaked int }

func (f *faults) add(o faults) {
	f.lost += o.lost
	f.twice += o.twice
	f.leaked += o.leaked
}

func (b *bench) crashOnce(ctx context.Context) (_ *crash, err error) {
	c := &crash{bench: b}
	c.fleet, err = b.newFleet(ctx, fleetOptions{
		nodes: min(b.nodes, crashNodes), replicas: crashReplicas, cuttable: nodeName(0),
	})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, c.close(b.keep)) }()
	for i := range crashReplicas {
		if err := c.startProvisioner(ctx, i); err != nil {
			return nil, err
		}
	}
	ctx, stop := context.WithCancel(ctx)
	var scheduler errgroup.Group
	scheduler.Go(func() error { return c.schedule(ctx) })
	err = c.run(ctx)
	stop()
	return c, errors.Join(err, scheduler.Wait())
}

func (c *crash) run(ctx context.Context) error {
	if err := c.disturb(ctx); err != nil {
		return err
	}
	c.progress("waiting until all claims are bound or gone")
	if err := c.settle(ctx); err != nil {
		return err
	}
	c.settled = time.Since(c.ended)
	return c.compare(ctx)
}

// disturb makes and deletes claims, and disturbs that.
func (c *crash) disturb(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return c.claims(ctx) })
	group.Go(func() error { return c.kill(ctx) })
	group.Go(func() error { return c.cutNetwork(ctx) })
	group.Go(func() error { return c.replaceCA(ctx) })
	return group.Wait()
}

// duration is how long the disturbances last.
func (c *crash) duration() time.Duration { return c.bench.cut + 3*c.bench.kills }

// claims makes the claims, evenly over the time. Every second one is Immediate.
func (c *crash) claims(ctx context.Context) error {
	interval := c.duration() / time.Duration(c.bench.burst)
	var deleting errgroup.Group
	for i := range c.bench.burst {
		class := classWait
		if i%2 == 1 {
			class = classImmediate
		}
		claim, err := c.claim(ctx, fmt.Sprintf("crash-%05d", i), class)
		if err != nil {
			return errors.Join(err, deleting.Wait())
		}
		if i%4 == i/4%2 { // every fourth, of both classes
			deleting.Go(func() error { return c.deleteBound(ctx, claim.Name) })
		}
		sleep(ctx, interval)
	}
	return deleting.Wait()
}

// deleteBound deletes a claim when it is bound. A claim that is deleted before may leak its volume,
// whatever the driver does: csi-provisioner knows only in its memory that it has asked for it.
func (c *crash) deleteBound(ctx context.Context, name string) error {
	claims := c.client.CoreV1().PersistentVolumeClaims(namespace)
	err := c.wait(ctx, name, func(ctx context.Context) (string, error) {
		claim, err := claims.Get(ctx, name, metav1.GetOptions{})
		if err == nil && claim.Status.Phase != core.ClaimBound {
			sleep(ctx, time.Second)
			return "it is not bound", nil
		}
		return "", err
	})
	if err != nil {
		return err
	}
	return claims.Delete(ctx, name, metav1.DeleteOptions{})
}

// schedule chooses the nodes of claims that wait for their first consumer, again and again: if a
// volume cannot be made, csi-provisioner takes the choice back.
func (c *crash) schedule(ctx context.Context) error {
	for ctx.Err() == nil {
		list, err := c.client.CoreV1().PersistentVolumeClaims(namespace).List(ctx, metav1.ListOptions{})
		if err != nil {
			return ignoreEnd(ctx, err)
		}
		for _, claim := range list.Items {
			_, chosen := claim.Annotations[selectedNode]
			if chosen || *claim.Spec.StorageClassName != classWait || claim.Spec.VolumeName != "" ||
				claim.DeletionTimestamp != nil {
				continue
			}
			err := c.selectNode(ctx, claim.Name, c.choose(claim.Name))
			if err != nil && !apierrors.IsNotFound(err) {
				return ignoreEnd(ctx, err)
			}
		}
		sleep(ctx, 200*time.Millisecond)
	}
	return nil
}

// ignoreEnd is no error when the context has ended.
func ignoreEnd(ctx context.Context, err error) error {
	if ctx.Err() == nil {
		return err
	}
	return nil
}

// choose gives every fifth claim to the node whose network is cut.
func (c *crash) choose(claim string) string {
	sum := fnv.New32()
	_, _ = sum.Write([]byte(claim)) // it has no errors
	if sum.Sum32()%5 == 0 {
		return nodeName(0)
	}
	return nodeName(int(sum.Sum32()/5) % len(c.nodes))
}

// kill kills the replicas in turn.
func (c *crash) kill(ctx context.Context) error {
	for end := time.Now().Add(c.duration()); time.Now().Before(end) && ctx.Err() == nil; {
		sleep(ctx, c.bench.kills)
		replica := c.replicas[c.kills%len(c.replicas)]
		if err := replica.now().Kill(); err != nil {
			return err
		}
		c.kills++
	}
	c.ended = time.Now()
	return ctx.Err()
}

// cutNetwork cuts that of the first node.
func (c *crash) cutNetwork(ctx context.Context) error {
	sleep(ctx, c.bench.kills)
	c.network.cut()
	sleep(ctx, c.bench.cut)
	c.network.mend()
	return ctx.Err()
}

// settle waits until each claim is bound, and each persistent volume has its claim.
func (c *crash) settle(ctx context.Context) error {
	return c.wait(ctx, "claims and volumes", func(ctx context.Context) (string, error) {
		claims, err := c.client.CoreV1().PersistentVolumeClaims(namespace).List(ctx,
			metav1.ListOptions{})
		if err != nil {
			return "", err
		}
		volumes, err := c.client.CoreV1().PersistentVolumes().List(ctx, metav1.ListOptions{})
		if err != nil {
			return "", err
		}
		waiting := 0
		for _, claim := range claims.Items {
			if claim.Status.Phase != core.ClaimBound || claim.DeletionTimestamp != nil {
				waiting++
			}
		}
		if waiting > 0 || len(volumes.Items) != len(claims.Items) {
			sleep(ctx, time.Second)
			return fmt.Sprintf("%d claims wait; there are %d claims and %d volumes", waiting,
				len(claims.Items), len(volumes.Items)), nil
		}
		return "", nil
	})
}

// leakDelay is how long a volume may take to go after its persistent volume.
const leakDelay = 30 * time.Second

// compare looks for the volumes of Kubernetes on the nodes, and for others there.
func (c *crash) compare(ctx context.Context) error {
	list, err := c.client.CoreV1().PersistentVolumes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	handles := map[string]bool{}
	for _, v := range list.Items {
		handles[v.Spec.CSI.VolumeHandle] = true
	}
	for end := time.Now().Add(leakDelay); ; {
		c.faults = c.compareOnce(handles)
		if c.faults == (faults{}) || time.Now().After(end) || ctx.Err() != nil {
			return ctx.Err()
		}
		sleep(ctx, time.Second)
	}
}

func (c *crash) compareOnce(handles map[string]bool) (found faults) {
	ids, names := map[string]bool{}, map[string]int{}
	for _, n := range c.nodes {
		for _, v := range n.pool.List("", c.bench.burst) {
			ids[v.ID.String()] = true
			names[v.ID.Dir()]++
			if !handles[v.ID.String()] {
				c.progress("node %s has %s, which is of no persistent volume", n.name, v.ID)
				found.leaked++
			}
		}
	}
	for handle := range handles {
		if !ids[handle] {
			c.progress("no node has %s", handle)
			found.lost++
		}
	}
	for name, count := range names {
		if count > 1 {
			c.progress("%d nodes have %s", count, name)
			found.twice++
		}
	}
	return found
}

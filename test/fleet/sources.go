package main

import (
	"context"
	"errors"
	"fmt"

	core "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/csi-hostpath/csi-hostpath/test/report"
)

// triesOfSources makes a claim on each node, and then a claim from each of them, of the class that
// waits for its first consumer. Nothing but the placer chooses a node for these.
func (b *bench) triesOfSources(ctx context.Context) (err error) {
	f, err := b.newFleet(ctx, fleetOptions{nodes: b.nodes, replicas: 1})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.close(b.keep)) }()
	if err := f.startProvisioner(ctx, 0); err != nil {
		return err
	}
	if _, err := f.bind(ctx, "source", classWait, b.nodes); err != nil {
		return err
	}
	var mean, most []float64
	for round := range b.rounds {
		prefix := fmt.Sprintf("restore-%d", round)
		if err := f.restoreAll(ctx, prefix, b.nodes); err != nil {
			return err
		}
		average, maximum, err := f.triesOf(ctx, prefix, b.nodes)
		if err != nil {
			return err
		}
		mean, most = append(mean, average), append(most, maximum)
	}
	b.report.Chapter(
		fmt.Sprintf("%d claims from claims on %d nodes, of the class that waits for its first consumer",
			b.nodes, b.nodes),
		report.NewRow("tries until the right node, mean", "calls", mean).AtMost(1),
		report.NewRow("– at most", "calls", most).AtMost(1),
	)
	return nil
}

// restoreAll makes a claim from each claim, and waits until they are bound.
func (f *fleet) restoreAll(ctx context.Context, prefix string, count int) error {
	bound, err := f.watchClaims(ctx, prefix)
	if err != nil {
		return err
	}
	defer bound.stop()
	err = inParallel(ctx, count, func(ctx context.Context, i int) error {
		claim := newClaim(fmt.Sprintf("%s-%04d", prefix, i), classWait)
		claim.Spec.DataSource = &core.TypedLocalObjectReference{
			Kind: "PersistentVolumeClaim", Name: fmt.Sprintf("source-%04d", i),
		}
		_, err := f.client.CoreV1().PersistentVolumeClaims(namespace).Create(ctx, claim,
			metav1.CreateOptions{})
		return err
	})
	if err != nil {
		return err
	}
	return f.wait(ctx, "claims with a source", func(context.Context) (string, error) {
		if n := bound.count(); n < count {
			return fmt.Sprintf("%d of %d are bound", n, count), nil
		}
		return "", nil
	})
}

// triesOf counts the calls for the volumes of claims.
func (f *fleet) triesOf(
	ctx context.Context, prefix string, count int,
) (mean, most float64, err error) {
	claims := f.client.CoreV1().PersistentVolumeClaims(namespace)
	sum := 0
	for i := range count {
		claim, err := claims.Get(ctx, fmt.Sprintf("%s-%04d", prefix, i), metav1.GetOptions{})
		if err != nil {
			return 0, 0, err
		}
		tries := f.tries.of(claim.Spec.VolumeName)
		sum += tries
		most = max(most, float64(tries))
	}
	return float64(sum) / float64(count), most, nil
}

package layout

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"

	"golang.org/x/sync/errgroup"

	"github.com/csi-hostpath/csi-hostpath/pkg/openat"
)

// walkBatch is how many entries one worker visits before it takes more.
const walkBatch = 512

// Walk calls visit once for each entry of a directory, concurrently: with 100,000 records the
// latency of the disk determines the time. When Walk returns, no visit is under way. It ends early
// when the context ends. Errors: those of reading the directory, and of the context.
func Walk(
	ctx context.Context, d openat.Dir, visit func(ctx context.Context, name string),
) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(4 * runtime.GOMAXPROCS(0))
	for ctx.Err() == nil {
		names, err := d.Readdirnames(walkBatch)
		if len(names) > 0 {
			group.Go(func() error { return visitAll(ctx, names, visit) })
		}
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return errors.Join(fmt.Errorf("read %s/: %w", d.Name(), err), group.Wait())
		}
	}
	return group.Wait()
}

func visitAll(
	ctx context.Context, names []string, visit func(ctx context.Context, name string),
) error {
	for _, name := range names {
		if err := ctx.Err(); err != nil {
			return err
		}
		visit(ctx, name)
	}
	return nil
}

package plugin

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/csi-hostpath/csi-hostpath/pkg/plugin/output"
)

// The orders of `top`.
const (
	sortByUsed   = "used"
	sortByUse    = "use"
	sortByGrowth = "growth"
	sortByWrites = "writes"
)

// Top is a volume with how fast it grows.
type Top struct {
	Volume

	// GrowthBytesPerSecond is how fast it grew between the two looks; nil: unknown.
	GrowthBytesPerSecond *int64 `json:"growthBytesPerSecond,omitempty"`
}

func (p *plugin) topCommand() *cobra.Command {
	var o printing
	var sel selection
	var sortBy string
	var sample time.Duration
	cmd := &cobra.Command{
		Use:   "top",
		Short: "Which claims use most, and which are being written to",
		Long: "Which claims use most, and which are being written to. WRITES is how much a volume grew " +
			"a second between two looks; what is overwritten in place does not show.",
		Example: "  kubectl hostpath top -A\n  kubectl hostpath top -A --sort-by writes --sample 10s",
		Args:    cobra.NoArgs,
	}
	o.register(cmd)
	sel.register(cmd)
	orders := []string{sortByUsed, sortByUse, sortByGrowth, sortByWrites}
	cmd.Flags().StringVar(&sortBy, "sort-by", sortByUsed, strings.Join(orders, ", "))
	cmd.Flags().DurationVar(&sample, "sample", 2*time.Second,
		"time between the two looks; 0: one look, without WRITES")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if !slices.Contains(orders, sortBy) {
			return fmt.Errorf("--sort-by %s: want one of %s", sortBy, strings.Join(orders, ", "))
		}
		return p.showList(cmd.Context(), o, func(
			ctx context.Context, s *session,
		) (output.List, []string, error) {
			volumes, hints, err := s.top(ctx, sel, sample)
			if err != nil {
				return output.List{}, nil, err
			}
			sortTop(volumes, sortBy)
			return topList(volumes, sel.all), hints, nil
		})
	}
	return cmd
}

// top looks twice.
func (s *session) top(
	ctx context.Context, sel selection, sample time.Duration,
) (volumes []Top, hints []string, err error) {
	first, hints, err := s.volumes(ctx, sel)
	if err != nil {
		return nil, nil, err
	}
	before := map[string]*int64{}
	for _, v := range first {
		before[v.ID] = v.UsedBytes()
	}
	began, second := s.now(), first
	if sample > 0 && len(first) > 0 {
		select {
		case <-ctx.Done():
			return nil, nil, ctx.Err()
		case <-time.After(sample):
		}
		namespace, err := s.namespace(sel.all)
		if err != nil {
			return nil, nil, err
		}
		second = slices.Clone(first)
		s.addData(ctx, namespace, second)
	}
	seconds := s.now().Sub(began).Seconds()
	for _, v := range second {
		t := Top{Volume: v}
		if was, is := before[v.ID], v.UsedBytes(); was != nil && is != nil && sample > 0 && seconds > 0 {
			t.GrowthBytesPerSecond = new(int64(float64(*is-*was) / seconds))
		}
		volumes = append(volumes, t)
	}
	return volumes, hints, nil
}

func sortTop(volumes []Top, by string) {
	weight := map[string]func(Top) float64{
		sortByUsed: func(t Top) float64 { return number(t.UsedBytes()) },
		sortByUse: func(t Top) float64 {
			return number(t.UsedBytes()) / float64(max(1, t.CapacityBytes))
		},
		sortByGrowth: func(t Top) float64 { return number(t.growth()) },
		sortByWrites: func(t Top) float64 { return number(t.GrowthBytesPerSecond) },
	}[by]
	slices.SortStableFunc(volumes, func(a, b Top) int { return cmp.Compare(weight(b), weight(a)) })
}

// number is the value, or less than any other if it is unknown.
func number(n *int64) float64 {
	if n == nil {
		return -1e30
	}
	return float64(*n)
}

// growth is how much the volume grew within a day; nil: unknown.
func (t Top) growth() *int64 {
	if t.Data == nil {
		return nil
	}
	return t.Data.GrowthBytesPerDay
}

func topList(volumes []Top, all bool) output.List {
	l := output.List{
		Kind: "TopList", None: "No volumes found.",
		Columns: []output.Column{
			{Name: "Claim"},
			{Name: "Used"},
			{Name: "Size"},
			{Name: "Use"},
			{Name: "Inodes"},
			{Name: "Growth/Day"},
			{Name: "Writes"},
			{Name: "Node"},
			{Name: "Pods"},
			{Name: "ID", Wide: true},
		},
	}
	if all {
		l.Columns = slices.Insert(l.Columns, 0, output.Column{Name: "Namespace"})
	}
	for _, t := range volumes {
		writes, inodes := output.Unknown, output.Unknown
		if t.GrowthBytesPerSecond != nil {
			writes = output.Bytes(*t.GrowthBytesPerSecond) + "/s"
		}
		if t.Data != nil && t.Data.UsedInodes != nil {
			inodes = strconv.FormatInt(*t.Data.UsedInodes, 10)
		}
		cells := []any{
			t.Claim, output.BytesOf(t.UsedBytes()), output.Bytes(t.CapacityBytes),
			output.PercentOf(t.UsedBytes(), t.CapacityBytes), inodes, output.BytesOf(t.growth()), writes,
			output.Text(t.Node), output.Text(strings.Join(t.Pods, ",")), output.Text(t.ID),
		}
		if all {
			cells = slices.Insert(cells, 0, any(t.Namespace))
		}
		l.Rows = append(l.Rows, output.Row{
			Name: "persistentvolumeclaim/" + t.Claim, Cells: cells, Item: t,
		})
	}
	return l
}

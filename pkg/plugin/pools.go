package plugin

import (
	"cmp"
	"context"
	"net/url"
	"slices"

	"github.com/spf13/cobra"

	"github.com/csi-hostpath/csi-hostpath/pkg/plugin/output"
	"github.com/csi-hostpath/csi-hostpath/pkg/status"
)

func (p *plugin) poolsCommand() *cobra.Command {
	var o printing
	var node string
	cmd := &cobra.Command{
		Use:     "pools",
		Aliases: []string{"pool"},
		Short:   "Pools of all nodes: room, use, state",
		Example: "  kubectl hostpath pools\n  kubectl hostpath pools --node node-1 -o wide",
		Args:    cobra.NoArgs,
	}
	o.register(cmd)
	cmd.Flags().StringVar(&node, "node", "", "only of this node")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		return p.showList(cmd.Context(), o, func(
			ctx context.Context, s *session,
		) (output.List, []string, error) {
			pools, missing, err := list[status.Pool](ctx, s, "pools", only(status.ParamNode, node))
			if err != nil {
				return output.List{}, nil, err
			}
			return poolList(pools), append(s.NotShown(), hintsOf("pools", missing)...), nil
		})
	}
	return cmd
}

// only is a parameter of a query, unless the value is empty.
func only(parameter, value string) url.Values {
	if value == "" {
		return nil
	}
	return url.Values{parameter: {value}}
}

func poolList(pools []status.Pool) output.List {
	l := output.List{
		Kind: "PoolList", None: "No pools found.",
		Columns: []output.Column{
			{Name: "Node"},
			{Name: "Pool"},
			{Name: "Status"},
			{Name: "Size"},
			{Name: "Used"},
			{Name: "Use"},
			{Name: "Available"},
			{Name: "Volumes"},
			{Name: "Enforced"},
			{Name: "Filesystem", Wide: true},
			{Name: "Snapshots", Wide: true},
			{Name: "Promised", Wide: true},
			{Name: "Trash", Wide: true},
			{Name: "Growth/Day", Wide: true},
			{Name: "Unhealthy", Wide: true},
			{Name: "ID", Wide: true},
		},
	}
	slices.SortFunc(pools, func(a, b status.Pool) int {
		return cmp.Or(cmp.Compare(a.Node, b.Node), cmp.Compare(a.Name, b.Name))
	})
	for _, p := range pools {
		l.Rows = append(l.Rows, poolRow(p))
	}
	return l
}

func poolRow(p status.Pool) output.Row {
	state := "Ready"
	if !p.Ready {
		state = p.Reason
	}
	size := func(n int64) string {
		if !p.Ready {
			return output.Unknown
		}
		return output.Bytes(n)
	}
	asked := func(n int64) string { // what a node has not pushed
		if p.AsOf != nil {
			return output.Unknown
		}
		return size(n)
	}
	use := output.Unknown
	if p.Ready && p.AsOf == nil {
		use = output.Percent(p.UsedBytes, p.SizeBytes)
	}
	return output.Row{
		Name: "pool/" + p.Node + "/" + p.Name, Item: p,
		Cells: []any{
			p.Node, p.Name, state, size(p.SizeBytes), asked(p.UsedBytes), use, size(p.AvailableBytes),
			p.Volumes, yesNo(p.EnforcesSizes), output.Text(p.Filesystem), p.Snapshots,
			asked(p.CommittedBytes), asked(p.TrashBytes), output.BytesOf(p.GrowthBytesPerDay),
			p.UnhealthyVolumes, output.Text(p.ID),
		},
	}
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

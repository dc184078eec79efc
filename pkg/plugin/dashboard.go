package plugin

import (
	"context"
	"fmt"
	"slices"

	"github.com/spf13/cobra"
)

func (p *plugin) dashboardCommand() *cobra.Command {
	var node string
	var port uint16
	cmd := &cobra.Command{
		Use:   "dashboard",
		Short: "Reach the status page in a browser, by a port-forward, until Ctrl-C",
		Long: "Reach the status page in a browser, by a port-forward, until Ctrl-C. While it runs, " +
			"other users of this machine can reach the page, too. In node deployment each driver has a " +
			"page of its node: name it with --node.",
		Args: cobra.NoArgs,
	}
	cmd.Flags().StringVar(&node, "node", "", "node deployment: the node")
	cmd.Flags().Uint16Var(&port, "port", 0, "local port; 0: one that is free")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		s, err := p.begin(cmd.Context())
		if err != nil {
			return err
		}
		return s.dashboard(cmd.Context(), node, port)
	}
	return cmd
}

func (s *session) dashboard(ctx context.Context, node string, port uint16) error {
	targets, err := s.targets(ctx)
	if err != nil {
		return err
	}
	chosen, err := chooseTarget(targets, node)
	if err != nil {
		return err
	}
	return s.pods.Forward(ctx, chosen.pod, chosen.port, port, func(local uint16) {
		url := fmt.Sprintf("http://localhost:%d/", local)
		if chosen.node == "" && node != "" {
			url += "nodes/" + node
		}
		fmt.Fprintln(s.Out, url)
	})
}

// chooseTarget chooses the pod that has the page.
func chooseTarget(targets []target, node string) (target, error) {
	targets = slices.DeleteFunc(targets, func(t target) bool { return t.down })
	for _, t := range targets {
		if t.node == node || t.node == "" {
			return t, nil
		}
	}
	switch {
	case node != "":
		return target{}, fmt.Errorf("no driver with a status page runs on node %s", node)
	case len(targets) == 1:
		return targets[0], nil
	}
	return target{}, fmt.Errorf("each of %d drivers has a page of its node: choose one with --node",
		len(targets))
}

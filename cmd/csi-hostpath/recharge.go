package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/csi-hostpath/csi-hostpath/pkg/command"
	"github.com/csi-hostpath/csi-hostpath/pkg/pool/repair"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

func rechargeCommand() *cobra.Command {
	var pool string
	var yes bool
	cmd := &cobra.Command{
		Use:   "recharge --pool DIRECTORY",
		Short: "Find files that count for another volume; with --yes they count for their own",
		Long: "Find files that count for another project than their volume, because a pod has changed their " +
			"project ID (XFS, ext4). It looks at every file of the pool's volumes. The driver may run.",
		Args: command.NoArguments,
	}
	cmd.Flags().StringVar(&pool, "pool", "", "the pool's directory")
	cmd.Flags().BoolVar(&yes, "yes", false, "charge the files to their volume")
	command.AddVersion(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if pool == "" {
			return errors.New("give --pool")
		}
		return recharge(cmd, pool, yes)
	}
	return cmd
}

func recharge(cmd *cobra.Command, pool string, yes bool) error {
	out := cmd.OutOrStdout()
	found, failed := 0, 0
	lookedAt, err := repair.Recharge(pool, repair.RechargeReport{
		Found: func(m repair.Misfiled) bool {
			found++
			of := "no volume of this pool has it"
			if m.Victim != (volume.ID{}) {
				of = "it is volume " + m.Victim.String() + "'s"
			}
			fmt.Fprintf(out, "%s counts for project %d: %s\n", m.Path, m.Project, of)
			return yes
		},
		Failed: func(path string, err error) {
			failed++
			fmt.Fprintf(cmd.ErrOrStderr(), "%s: %v\n", path, err)
		},
	})
	if err != nil {
		return command.RunError{Err: err}
	}
	switch {
	case found == 0:
		fmt.Fprintf(out, "Every file that was looked at counts for its volume. "+
			"Volumes with a project ID: %d.\n", lookedAt)
	case !yes:
		fmt.Fprintf(out, "Found: %d. Nothing was changed. To charge them to their volumes, add --yes.\n", found)
	default:
		fmt.Fprintf(out, "Charged to their volumes: %d.\n", found)
	}
	if failed > 0 {
		return command.RunError{Err: fmt.Errorf("not looked at, or not changed: %d", failed)}
	}
	return nil
}

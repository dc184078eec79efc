package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	grpcstatus "google.golang.org/grpc/status"

	"github.com/csi-hostpath/csi-hostpath/pkg/adminpb"
	"github.com/csi-hostpath/csi-hostpath/pkg/command"
	"github.com/csi-hostpath/csi-hostpath/pkg/config"
	"github.com/csi-hostpath/csi-hostpath/pkg/status"
)

// undeleteTimeout bounds the call: a rename and an fsync.
const undeleteTimeout = time.Minute

// undeleteFlags are the flags of undelete as they are given.
type undeleteFlags struct{ endpoint, pool, format string }

func undeleteCommand() *cobra.Command {
	var f undeleteFlags
	cmd := &cobra.Command{
		Use:   "undelete ENTRY",
		Short: "Have the running driver take a deleted volume back from the trash of its pool",
		Long: "Have the running driver take a deleted volume back from the trash of its pool. ENTRY is " +
			"the name in trash/. Nothing is overwritten, and a volume whose purge has begun stays " +
			"deleted. Then create its PersistentVolume and claim again (docs/operations.md).",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 {
				return fmt.Errorf("give the name of one entry of trash/, and flags: %q", args)
			}
			return nil
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&f.endpoint, "endpoint", config.Default().Endpoint,
		"CSI socket of the running driver")
	flags.StringVar(&f.pool, "pool", "", "the pool's name; default: the pool that has the entry")
	flags.StringVarP(&f.format, "output", "o", "", "json: for programs")
	command.AddVersion(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if f.format != "" && f.format != "json" {
			return fmt.Errorf("--output: %q must be json", f.format)
		}
		if _, err := config.SocketPath(f.endpoint); err != nil {
			return fmt.Errorf("--endpoint: %w", err)
		}
		v, err := f.call(cmd.Context(), args[0])
		if err != nil {
			return command.RunError{Err: err}
		}
		return printUndeleted(cmd.OutOrStdout(), f.format, v)
	}
	return cmd
}

func (f undeleteFlags) call(ctx context.Context, entry string) (v status.Undeleted, err error) {
	ctx, cancel := context.WithTimeout(ctx, undeleteTimeout)
	defer cancel()
	conn, err := grpc.NewClient(f.endpoint,
		grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return v, err
	}
	defer conn.Close() //nolint:errcheck // the answer has been read
	r, err := adminpb.NewAdminClient(conn).Undelete(ctx,
		&adminpb.UndeleteRequest{Pool: f.pool, Entry: entry})
	if err != nil {
		return v, errors.New(grpcstatus.Convert(err).Message())
	}
	v = status.Undeleted{
		ID: r.GetVolumeId(), Pool: r.GetPool(), CapacityBytes: r.GetCapacityBytes(),
		IsBlock: r.GetIsBlock(), PersistentVolume: r.GetPersistentVolume(),
		Topology:      map[string]string{r.GetTopologyKey(): r.GetTopologyValue()},
		WasNotInTrash: r.GetWasNotInTrash(),
	}
	if r.GetClaim() != "" {
		v.Claim = &status.ObjectName{Namespace: r.GetNamespace(), Name: r.GetClaim()}
	}
	return v, nil
}

func printUndeleted(out io.Writer, format string, v status.Undeleted) error {
	if format == "json" {
		encoder := json.NewEncoder(out)
		encoder.SetIndent("", "  ")
		return encoder.Encode(v)
	}
	if v.WasNotInTrash {
		fmt.Fprintf(out, "Volume %s is in pool %s, and was not in the trash: nothing was changed.\n"+
			"It was taken back before, or the entry's name is wrong.\n", v.ID, v.Pool)
	} else {
		fmt.Fprintf(out, "Volume %s is back in pool %s, with %d bytes.\n", v.ID, v.Pool, v.CapacityBytes)
	}
	if v.Claim != nil {
		fmt.Fprintf(out, "It was made for claim %s/%s, as PersistentVolume %s.\n", v.Claim.Namespace,
			v.Claim.Name, v.PersistentVolume)
	}
	fmt.Fprintln(out,
		"Create its PersistentVolume again: docs/operations.md#take-a-deleted-volume-back")
	return nil
}

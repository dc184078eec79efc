//go:build tools

// Package backup pins an S3 server and Velero, which test/backup runs.
package backup

import (
	_ "github.com/versity/versitygw/cmd/versitygw"
	_ "github.com/vmware-tanzu/velero-plugin-for-aws/velero-plugin-for-aws"
	_ "github.com/vmware-tanzu/velero/cmd/velero"
	_ "github.com/vmware-tanzu/velero/cmd/velero-restore-helper"
)

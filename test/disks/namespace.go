package disks

import (
	"fmt"
	"os"
)

// LeaveOthers is a script of sh(1) for a new mount namespace. It detaches there what other tests
// have mounted, all but what is below a directory: the namespace would keep their filesystems in
// use after they have unmounted them.
func LeaveOthers(keep string) string {
	const text = `others() {
	awk -v temp='%s/' -v keep='%s/' \
		'index($5, temp) == 1 && index($5 "/", keep) != 1 {print $5}' /proc/self/mountinfo | sort -r
}
others | while read -r point; do mount --make-private "$point" 2>/dev/null || true; done
others | while read -r point; do umount --lazy "$point" 2>/dev/null || true; done
`
	return fmt.Sprintf(text, os.TempDir(), keep)
}

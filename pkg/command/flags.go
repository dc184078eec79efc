package command

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// flagValues says what a flag takes, by the type of its value. Types that take any text are
// missing.
var flagValues = map[string]string{
	"bool":       "true or false",
	"float32":    "a number",
	"int":        "a whole number",
	"duration":   "a duration with a unit, such as 90s or 2m",
	"uint32":     "a whole number of 1 to 4294967294",
	"Level":      "a whole number of 0 to 2147483647",
	"moduleSpec": "a list of pattern=N, such as pool=5,server=3",
}

// FlagError is for SetFlagErrorFunc. It says which values are right. pflag's own error has only
// that of strconv.
func FlagError(_ *cobra.Command, err error) error {
	invalid := new(pflag.InvalidValueError)
	if !errors.As(err, &invalid) {
		return err
	}
	flag := invalid.GetFlag()
	return fmt.Errorf("--%s: %q must be %s", flag.Name, invalid.GetValue(),
		flagValues[flag.Value.Type()])
}

// Command coredns is CoreDNS with the plugins that this cluster's DNS needs. With all of upstream's
// plugins it takes many more modules.
package main

import (
	"github.com/coredns/coredns/coremain"
	_ "github.com/coredns/coredns/plugin/errors"
	_ "github.com/coredns/coredns/plugin/kubernetes"
)

func main() { coremain.Run() }

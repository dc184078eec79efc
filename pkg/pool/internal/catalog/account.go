package catalog

import (
	"github.com/csi-hostpath/csi-hostpath/pkg/pool/internal/ledger"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// AccountOf returns the account under which a filesystem counts the blocks of a volume. It is zero
// for a volume without a quota ID.
func AccountOf(v volume.Volume) ledger.Account {
	if v.QuotaID == 0 {
		return ledger.Account{}
	}
	return ledger.Account{Volume: v.ID, QuotaID: v.QuotaID, Created: int64(instantOf(v.Created))}
}

// SourceAccount returns the account of a snapshot's source. It is zero for a volume, and for a
// snapshot whose blocks count for no volume.
func (e *Entry) SourceAccount() ledger.Account {
	if e.sourceQuotaID == 0 {
		return ledger.Account{}
	}
	source, err := volume.ParseID(e.ParentID)
	if err != nil {
		return ledger.Account{}
	}
	return ledger.Account{Volume: source, QuotaID: e.sourceQuotaID, Created: int64(e.sourceCreated)}
}

package policy

// VLANSet says which VLAN tags (IEEE 802.1Q, TPID 0x8100 or 0x88a8) a guest may put on its frames. The zero value
// allows none.
type VLANSet struct {
	All    bool // any tag, stacked ones included
	Ranges []VLANRange
}

// VLANRange is first to last VLAN ID, both included; 0 is a priority tag.
type VLANRange struct{ First, Last uint16 }

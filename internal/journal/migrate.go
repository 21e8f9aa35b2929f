package journal

import (
	"cmp"
	"encoding/json"
	"fmt"
)

// migrate brings the text of a journal from an older format to the next one.
func migrate(version int, data []byte) ([]byte, error) {
	switch version {
	case 1:
		return migrate1(data)
	case 2:
		return migrate2(data)
	}
	return nil, fmt.Errorf("version %d was never one", version)
}

// migrate2 gives hook-owned devices the step by which they are up since version 3: until then
// making them was, and stopped took them down.
func migrate2(data []byte) ([]byte, error) {
	var j map[string]json.RawMessage
	if err := json.Unmarshal(data, &j); err != nil {
		return nil, err
	}
	var entries []Entry
	if err := json.Unmarshal(j["entries"], &entries); err != nil {
		return nil, err
	}
	for _, e := range entries {
		var s struct {
			NIC     string   `json:"nic"`
			Macvtap *device2 `json:"macvtap"`
			Tap     *device2 `json:"tap"`
		}
		if err := json.Unmarshal(e.Step, &s); err != nil {
			return nil, err
		}
		dev := cmp.Or(s.Macvtap, s.Tap)
		if dev == nil || e.Phase == Planned {
			continue
		}
		up, err := json.Marshal(map[string]any{"nic": s.NIC, "link_up": map[string]any{"device": dev.Name, "index": dev.Index}})
		if err != nil {
			return nil, err
		}
		entries = append(entries, Entry{Resource: "up/" + dev.Name, Gen: 1, Phase: e.Phase, Step: up})
	}
	text, err := json.Marshal(entries)
	if err != nil {
		return nil, err
	}
	j["entries"], j["version"] = text, json.RawMessage("3")
	return json.Marshal(j)
}

// device2 is the device of a hook-owned NIC.
type device2 struct {
	Name  string `json:"name"`
	Index int    `json:"index"`
}

// migrate1 gives the entries of a journal of version 1 their resources. Its claims to a
// VF have a generation once the VF was programmed. Such a journal's domain counts as
// started: whatever else it was, its claims are not to keep anybody waiting.
func migrate1(data []byte) ([]byte, error) {
	var j map[string]json.RawMessage
	if err := json.Unmarshal(data, &j); err != nil {
		return nil, err
	}
	var entries []struct {
		Phase Phase           `json:"phase"`
		Step  json.RawMessage `json:"step"`
	}
	if err := json.Unmarshal(j["entries"], &entries); err != nil {
		return nil, err
	}
	after := []Entry{}
	for _, e := range entries {
		entry := Entry{Phase: e.Phase, Step: e.Step}
		if err := entry.migrate1(); err != nil {
			return nil, err
		}
		if entry.Resource != "" {
			after = append(after, entry)
		}
	}
	text, err := json.Marshal(after)
	if err != nil {
		return nil, err
	}
	j["entries"], j["version"], j["started"], j["serial"] = text, json.RawMessage("2"), json.RawMessage("true"), json.RawMessage("1")
	return json.Marshal(j)
}

// step1 is what of a step of version 1 names its resource.
type step1 struct {
	VLAN *struct {
		ID          int `json:"id"`
		ParentIndex int `json:"parent_index"`
	} `json:"vlan"`
	AltName *named1 `json:"altname"`
	Macvtap *named1 `json:"macvtap"`
	VF      *struct {
		PF        string `json:"pf"`
		Number    int    `json:"number"`
		Claim     int    `json:"claim"`
		Contested bool   `json:"contested"`
	} `json:"vf"`
	Port *struct {
		PF     string `json:"pf"`
		Number int    `json:"number"`
		Netdev string `json:"netdev"`
	} `json:"port"`
	VSI *struct {
		Port     string `json:"port"`
		Instance string `json:"instance"`
	} `json:"vsi"`
	Tap     *named1 `json:"tap"`
	OVSPort *named1 `json:"ovs_port"`
}

type named1 struct {
	Name string `json:"name"`
}

func (e *Entry) migrate1() error {
	var s step1
	if err := json.Unmarshal(e.Step, &s); err != nil {
		return err
	}
	switch {
	case s.VLAN != nil:
		e.Resource, e.Shared = fmt.Sprintf("vlan/%d/%d", s.VLAN.ParentIndex, s.VLAN.ID), true
	case s.AltName != nil:
		e.Resource, e.Shared = "altname/"+s.AltName.Name, true
	case s.Macvtap != nil:
		e.Resource = "link/" + s.Macvtap.Name
	case s.VF != nil && s.VF.Contested: // it has never had the VF
	case s.VF != nil:
		e.Resource, e.Gen = fmt.Sprintf("vf/%s/%d", s.VF.PF, s.VF.Number), s.VF.Claim
		return e.migrateVF1()
	case s.Port != nil && s.Port.PF != "":
		e.Resource = fmt.Sprintf("port/%s/%d", s.Port.PF, s.Port.Number)
	case s.Port != nil:
		e.Resource = "port/" + s.Port.Netdev
	case s.VSI != nil:
		e.Resource = VSIResource(s.VSI.Port, s.VSI.Instance)
	case s.Tap != nil:
		e.Resource = "link/" + s.Tap.Name
	case s.OVSPort != nil:
		e.Resource = "ovs/" + s.OVSPort.Name
	default:
		return fmt.Errorf("a step of no known kind")
	}
	return nil
}

// migrateVF1 puts what a VF was before its guest into one place of its own.
func (e *Entry) migrateVF1() error {
	var step, vf map[string]json.RawMessage
	if err := json.Unmarshal(e.Step, &step); err != nil {
		return err
	}
	if err := json.Unmarshal(step["vf"], &vf); err != nil {
		return err
	}
	baseline := map[string]json.RawMessage{"settings": vf["before"]}
	for _, name := range []string{"own", "up", "netdev", "index"} {
		if v, there := vf[name]; there {
			baseline[name] = v
		}
		delete(vf, name)
	}
	if vf["before"] == nil {
		baseline["settings"] = json.RawMessage("{}")
	}
	for _, name := range []string{"before", "claim", "contested"} {
		delete(vf, name)
	}
	var err error
	if vf["baseline"], err = json.Marshal(baseline); err != nil {
		return err
	}
	vf["managed"] = json.RawMessage("true")
	if e.Gen > 0 {
		vf["set"] = json.RawMessage("true")
	}
	if step["vf"], err = json.Marshal(vf); err != nil {
		return err
	}
	e.Step, err = json.Marshal(step)
	return err
}

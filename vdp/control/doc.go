// Package control is the control socket of vdpd: its protocol, and a client.
//
// The socket is a unix stream socket, for root and one group. A request is one
// JSON object on one line, and so is each answer:
//
//	{"op":"status"}
//	{"op":"list"}                            with "uplink", of that one only
//	{"op":"show","id":UUID}
//	{"op":"associate","uplink":"eth0","vsi":{"id":UUID,"manager":11,
//	  "type":1193047,"version":2,"filters":[{"mac":"52:54:00:01:02:03","vid":100}]}}
//	                                         with "owner", "hand" or "hook"
//	{"op":"preassociate",…}  {"op":"preassociate-rr",…}
//	{"op":"deassociate","id":UUID}
//	{"op":"subscribe"}
//
// The answer to list has several lines if there are many VSIs: all but the last
// have "more":true.
//
// An associate is answered when the switch has answered; its request outlives
// the connection. After subscribe, the connection carries events until either
// side closes it, and no further request. Unknown keys, operations and values
// are errors, which end the connection.
package control

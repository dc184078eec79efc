{{- define "csi-hostpath.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 52 | trimSuffix "-" -}}
{{- else -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 52 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 52 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "csi-hostpath.selectorLabels" -}}
app.kubernetes.io/name: {{ default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "csi-hostpath.labels" -}}
{{ include "csi-hostpath.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ if .Values.namespace.create }}kubectl{{ else }}{{ .Release.Service }}{{ end }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "csi-hostpath.serviceAccountName" -}}
{{- default (include "csi-hostpath.fullname" .) .Values.serviceAccount.name -}}
{{- end -}}

{{- /* Of the Deployment, the Service and the service account of the controller. */ -}}
{{- define "csi-hostpath.controllerName" -}}
{{- include "csi-hostpath.fullname" . }}-controller
{{- end -}}

{{- /* What tells the controller's pods from the driver's, which a DaemonSet selects. */ -}}
{{- define "csi-hostpath.controllerLabels" -}}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: controller
{{- end -}}

{{- /* Of the Deployment and the service account of the placer. */ -}}
{{- define "csi-hostpath.placerName" -}}
{{- include "csi-hostpath.fullname" . }}-placer
{{- end -}}

{{- define "csi-hostpath.placerLabels" -}}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: placer
{{- end -}}

{{- /* The Secret and the ConfigMap in which the controller keeps its own certificate authority. */ -}}
{{- define "csi-hostpath.authorityName" -}}
{{- with .Values.controller.tls -}}
{{- if ne (not .secret) (not .authorityConfigMap) -}}
{{- fail "controller.tls: give both secret and authorityConfigMap, or none" -}}
{{- end -}}
{{- end -}}
{{- default (printf "%s-ca" (include "csi-hostpath.controllerName" .)) .Values.controller.tls.authorityConfigMap -}}
{{- end -}}

{{- /* Where the driver has its token for the controller and the controller's authority. */ -}}
{{- define "csi-hostpath.controllerFiles" -}}
/var/run/secrets/csi-hostpath-controller
{{- end -}}

{{- /* The name in the controller's certificate. */ -}}
{{- define "csi-hostpath.serverName" -}}
csi-hostpath-controller
{{- end -}}

{{- define "csi-hostpath.tokenAudience" -}}
csi-hostpath-controller
{{- end -}}

{{- /* An image's full name: dict "image" IMAGE "tag" DEFAULT. */ -}}
{{- define "csi-hostpath.image" -}}
{{- if .image.digest -}}
{{- printf "%s@%s" .image.repository .image.digest -}}
{{- else -}}
{{- printf "%s:%s" .image.repository (default .tag .image.tag) -}}
{{- end -}}
{{- end -}}

{{- define "csi-hostpath.endpoint" -}}
{{- printf "%s/plugins/%s" .Values.kubeletDir .Values.driverName -}}
{{- end -}}

{{- /* The topology key that pkg/driver/topology.go gives to each node. */ -}}
{{- define "csi-hostpath.topologyKey" -}}
topology.{{ .Values.driverName }}/node
{{- end -}}

{{- define "csi-hostpath.config" -}}
apiVersion: hostpath.csi.local/v1
kind: DriverConfiguration
maxVolumesPerNode: {{ int64 .Values.config.maxVolumesPerNode }}
pools:
{{- toYaml .Values.config.pools | nindent 2 }}
{{- with .Values.config.hostPaths }}
hostPaths:
{{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.config.gitSources }}
gitSources:
{{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.config.ioLimits }}
ioLimits:
{{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- /* The directories of the node to mount, as JSON: {"list": [...]}. A pool's parent, not the pool itself: kubelet would make
the directory of an optional pool on the nodes that have none, and the driver a pool in it. */ -}}
{{- define "csi-hostpath.hostDirectories" -}}
{{- $own := list .Values.kubeletDir "/csi" "/etc/csi-hostpath" "/host" "/run/csi-hostpath" "/run/csi-hostpath-git" "/usr/local/bin" -}}
{{- $candidates := list -}}
{{- if .Values.hostDirectories -}}
{{- $candidates = .Values.hostDirectories -}}
{{- else -}}
{{- range .Values.config.pools -}}
{{- $candidates = append $candidates (dir .path) -}}
{{- end -}}
{{- end -}}
{{- $candidates = $candidates | uniq | sortAlpha -}}
{{- range $directory := $candidates -}}
{{- $taken := has . (list "/" "/bin" "/dev" "/lib" "/lib64" "/proc" "/sbin" "/sys" "/usr/bin" "/usr/lib" "/usr/lib64" "/usr/sbin" "/var/run") -}}
{{- range $own -}}
{{- if or (hasPrefix (printf "%s/" $directory) (printf "%s/" .)) (hasPrefix (printf "%s/" .) (printf "%s/" $directory)) -}}{{- $taken = true -}}{{- end -}}
{{- end -}}
{{- if $taken -}}
{{- $whose := "hostDirectories" -}}
{{- if not $.Values.hostDirectories -}}
{{- range $.Values.config.pools -}}{{- if eq (dir .path) $directory -}}{{- $whose = printf "pool %s, %s" .name .path -}}{{- end -}}{{- end -}}
{{- end -}}
{{- fail (printf "%s: the driver's container cannot have the node's directory %s: it holds what the container or kubelet needs. Mount the pool's disk below a directory of its own, such as /mnt/disks/data; or put the pool one level deeper, without requireMountpoint; or list in hostDirectories the directories to mount" $whose .) -}}
{{- end -}}
{{- end -}}
{{- $directories := list -}}
{{- range $candidate := $candidates -}}
{{- $covered := false -}}
{{- range $candidates -}}
{{- if and (ne . $candidate) (hasPrefix (printf "%s/" .) $candidate) -}}{{- $covered = true -}}{{- end -}}
{{- end -}}
{{- if not $covered -}}{{- $directories = append $directories $candidate -}}{{- end -}}
{{- end -}}
{{- range $pool := .Values.config.pools -}}
{{- $found := false -}}
{{- range $directories -}}
{{- if hasPrefix (printf "%s/" .) (printf "%s/" $pool.path) -}}{{- $found = true -}}{{- end -}}
{{- end -}}
{{- if not $found -}}
{{- fail (printf "pool %s: %s is in none of hostDirectories (%s)" $pool.name $pool.path (join ", " $directories)) -}}
{{- end -}}
{{- end -}}
{{- dict "list" $directories | toJson -}}
{{- end -}}

{{- /* What every container but the driver's runs under. */ -}}
{{- define "csi-hostpath.restricted" -}}
runAsNonRoot: true
runAsUser: {{ int64 .Values.sidecars.uid }}
runAsGroup: {{ int64 .Values.sidecars.gid }}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
seccompProfile:
  type: RuntimeDefault
{{- with .Values.sidecars.seLinuxOptions }}
seLinuxOptions:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- /* The user that the sidecars of every node are for the API server. */ -}}
{{- define "csi-hostpath.user" -}}
system:serviceaccount:{{ .Release.Namespace }}:{{ include "csi-hostpath.serviceAccountName" . }}
{{- end -}}

{{- /* A ValidatingAdmissionPolicy for a user, by default the sidecars', up to its variables and validations, and its binding: dict "root" $
"name" NAME "group" GROUP "resources" LIST "operations" LIST, perhaps "user" USER. */ -}}
{{- define "csi-hostpath.policy" -}}
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata:
  name: {{ include "csi-hostpath.fullname" .root }}-{{ .name }}
  labels:
    {{- include "csi-hostpath.labels" .root | nindent 4 }}
spec:
  policyName: {{ include "csi-hostpath.fullname" .root }}-{{ .name }}
  validationActions: [Deny]
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata:
  name: {{ include "csi-hostpath.fullname" .root }}-{{ .name }}
  labels:
    {{- include "csi-hostpath.labels" .root | nindent 4 }}
spec:
  failurePolicy: Fail
  matchConstraints:
    resourceRules:
      - apiGroups: [{{ .group | quote }}]
        apiVersions: [v1]
        resources: [{{ join ", " .resources }}]
        operations: [{{ join ", " .operations }}]
  matchConditions:
    - name: is-its-user
      expression: request.userInfo.username == '{{ default (include "csi-hostpath.user" .root) .user }}'
{{- end -}}

{{- /* CEL: the node that a token was made for, or ''. */ -}}
{{- define "csi-hostpath.tokensNode" -}}
request.userInfo.?extra[?'authentication.kubernetes.io/node-name'].orValue([''])[0]
{{- end -}}

{{- /* CEL: the pod that a token was made for, or ''. */ -}}
{{- define "csi-hostpath.tokensPod" -}}
request.userInfo.?extra[?'authentication.kubernetes.io/pod-name'].orValue([''])[0]
{{- end -}}

{{- /* CEL: a validation that refuses a token of no node. */ -}}
{{- define "csi-hostpath.tokenHasNode" -}}
- expression: variables.node != ''
  message: the token does not say for which node it was made
{{- end -}}

{{- /* CEL: whether a topology value, an expression, is the token's node. A node's name that is too long for a label stands there as a
hash (pkg/driver/topology.go), which CEL cannot compute. */ -}}
{{- define "csi-hostpath.isTokensNode" -}}
({{ . }} == variables.node || size(variables.node) > 63 && {{ . }}.startsWith('h-'))
{{- end -}}

{{- /* CEL: whether two maps or objects are the same but for some keys: dict "new" EXPRESSION "old" EXPRESSION "but" LIST. An allow-list:
also of fields that the API gets later. dyn() because the API server's type check lets no object be iterated. */ -}}
{{- define "csi-hostpath.same" -}}
{{- $but := "" -}}
{{- if .but -}}{{- $but = printf "k in ['%s'] || " (join "', '" .but) -}}{{- end -}}
dyn({{ .new }}).all(k, {{ $but }}k in dyn({{ .old }}) && dyn({{ .new }})[k] == dyn({{ .old }})[k]) &&
dyn({{ .old }}).all(k, {{ $but }}k in dyn({{ .new }}))
{{- end -}}

{{- /* CEL: whether two lists have the same elements but for some: dict "new" EXPRESSION "old" EXPRESSION "but" LIST. */ -}}
{{- define "csi-hostpath.sameElements" -}}
{{- $but := "" -}}
{{- if .but -}}{{- $but = printf "e in ['%s'] || " (join "', '" .but) -}}{{- end -}}
{{ .new }}.all(e, {{ $but }}e in {{ .old }}) && {{ .old }}.all(e, {{ $but }}e in {{ .new }})
{{- end -}}

{{- /* CEL: whether an update leaves alone what every object has, but for some annotations and finalizers: dict "annotations" LIST
"finalizers" LIST. The API server itself sets generation, managedFields and resourceVersion. */ -}}
{{- define "csi-hostpath.metadataStays" -}}
{{- include "csi-hostpath.same" (dict "new" "object.metadata" "old" "oldObject.metadata" "but" (list "annotations" "finalizers" "generation" "managedFields" "resourceVersion")) }} &&
{{ include "csi-hostpath.same" (dict "new" "object.metadata.?annotations.orValue({})" "old" "oldObject.metadata.?annotations.orValue({})" "but" .annotations) }} &&
{{ include "csi-hostpath.sameElements" (dict "new" "object.metadata.?finalizers.orValue([])" "old" "oldObject.metadata.?finalizers.orValue([])" "but" .finalizers) }}
{{- end -}}

{{- /* CEL: whether a new object's metadata has only what the API server sets, its name and some more fields, as a list. */ -}}
{{- define "csi-hostpath.metadataOfNew" -}}
dyn(object.metadata).all(k, k in ['{{ join "', '" (concat (list "creationTimestamp" "generation" "managedFields" "name" "namespace" "uid") .) }}'])
{{- end -}}

{{- /* The annotation in which external-resizer keeps a volume's size of before it began to grow (AnnPreResizeCapacity). */ -}}
{{- define "csi-hostpath.sizeBefore" -}}
volume.alpha.kubernetes.io/pre-resize-capacity
{{- end -}}

{{- /* Environment variables for --identity: a pod's name may be used again, its UID not. */ -}}
{{- define "csi-hostpath.podIdentity" -}}
- name: POD_NAME
  valueFrom:
    fieldRef: {fieldPath: metadata.name}
- name: POD_UID
  valueFrom:
    fieldRef: {fieldPath: metadata.uid}
{{- end -}}

{{- /* The annotations in which the controller keeps since when a volume's or a snapshot's node is gone, and which node had the snapshot
(pkg/lifecycle). */ -}}
{{- define "csi-hostpath.goneSince" -}}
{{ .Values.driverName }}/node-gone-since
{{- end -}}
{{- define "csi-hostpath.goneNode" -}}
{{ .Values.driverName }}/node
{{- end -}}

{{- /* The finalizer with which external-provisioner keeps a PersistentVolume until its volume is deleted (finalizerPV). */ -}}
{{- define "csi-hostpath.volumeFinalizer" -}}
external-provisioner.volume.kubernetes.io/finalizer
{{- end -}}

{{- /* The leases of external-provisioner, the controller, external-resizer and external-snapshotter (csi-lib-utils' sanitizeName of what each
gives to RunWithLeaderElection), as JSON: {"list": [...]}. */ -}}
{{- define "csi-hostpath.leases" -}}
{{- $driver := regexReplaceAll "[^a-zA-Z0-9-]" .Values.driverName "-" -}}
{{- $leases := list $driver (include "csi-hostpath.controllerLease" .) -}}
{{- if .Values.resizer.enabled }}{{ $leases = append $leases (include "csi-hostpath.resizerLease" .) }}{{ end -}}
{{- if .Values.snapshotter.enabled }}{{ $leases = append $leases (printf "external-snapshotter-leader-%s" $driver) }}{{ end -}}
{{- dict "list" $leases | toJson -}}
{{- end -}}

{{- /* The lease of who follows claims and nodes (cmd/csi-hostpath-controller, leaseOf). */ -}}
{{- define "csi-hostpath.controllerLease" -}}
csi-hostpath-controller-{{ replace "." "-" .Values.driverName }}
{{- end -}}

{{- /* external-resizer's lease (util.SanitizeName of the driver's name). */ -}}
{{- define "csi-hostpath.resizerLease" -}}
external-resizer-{{ regexReplaceAll "[^a-zA-Z0-9-]" .Values.driverName "-" }}
{{- end -}}

{{- /* Whether volumes of a class can grow, as true or false: a path of the node has no size. */ -}}
{{- define "csi-hostpath.classGrows" -}}
{{- if hasKey . "allowVolumeExpansion" -}}{{- .allowVolumeExpansion -}}
{{- else -}}{{- not (hasKey (default dict .parameters) "path") -}}
{{- end -}}
{{- end -}}

{{- /* Whether the sizes of a class's claims hold: what kubectl describe says of the class. */ -}}
{{- define "csi-hostpath.classSizes" -}}
{{- $p := default dict .parameters -}}
{{- if hasKey $p "path" -}}
A path of the node. Its size is not counted.
{{- else if or (eq "image" (default "" $p.backing)) (hasKey $p "csi.storage.k8s.io/fstype") -}}
Images on the node's disk. Sizes are enforced.
{{- else if eq "enforced" (default "" $p.backing) -}}
Directories where the pool enforces sizes, images elsewhere. Sizes are enforced.
{{- else -}}
{{ ternary "Files" "Directories" (eq "FileOrCreate" (default "" $p.type)) }} on the node's disk. Sizes are enforced where the pool's filesystem has quotas, and only counted elsewhere.
{{- end -}}
{{- end -}}

{{- /* What a NetworkPolicy lets in to the ports of metrics: dict "root" $ "ports" LIST. */ -}}
{{- define "csi-hostpath.scraped" -}}
- ports:
    {{- range .ports }}
    - {protocol: TCP, port: {{ int64 . }}}
    {{- end }}
  {{- with .root.Values.networkPolicy.scrapers }}
  from:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end -}}

{{- /* What a NetworkPolicy lets out: the way to the API server, for which there is no selector. The sidecars take its address from their
environment, not from DNS. */ -}}
{{- /* The container that fetches git repositories. It has no rights, no directory of the node and no token. */ -}}
{{- define "csi-hostpath.gitFetcher" }}
- name: git-fetcher
  image: {{ include "csi-hostpath.image" (dict "image" .Values.image "tag" .Chart.AppVersion) | quote }}
  imagePullPolicy: {{ .Values.image.pullPolicy }}
  command: [/usr/local/bin/csi-hostpath-git]
  args:
    - --memory=$(MEMORY)
    - --cache-bytes={{ int64 .Values.gitFetcher.cacheBytes }}
    # A repository is not at these addresses, unless a rule of gitSources names them.
    - --refused-addresses=$(KUBERNETES_SERVICE_HOST),$(HOST_IPS),$(POD_IPS)
    - --v={{ .Values.driver.logLevel }}
  env:
    - name: MEMORY
      valueFrom:
        resourceFieldRef: {resource: limits.memory}
    - name: HOST_IPS
      valueFrom:
        fieldRef: {fieldPath: status.hostIPs}
    - name: POD_IPS
      valueFrom:
        fieldRef: {fieldPath: status.podIPs}
  securityContext:
    runAsNonRoot: true
    runAsUser: 65532
    runAsGroup: 65532
    allowPrivilegeEscalation: false
    readOnlyRootFilesystem: true
    capabilities:
      drop: [ALL]
    seccompProfile:
      type: RuntimeDefault
  resources:
    {{- toYaml .Values.gitFetcher.resources | nindent 4 }}
  terminationMessagePolicy: FallbackToLogsOnError
  volumeMounts:
    - name: git-socket
      mountPath: /run/csi-hostpath-git
    - name: git-cache
      mountPath: /var/cache/csi-hostpath-git
{{- end -}}

{{- /* Where the fetcher goes. Names are looked up; addresses are checked by the fetcher itself. */ -}}
{{- define "csi-hostpath.gitEgress" -}}
- ports:
    {{- range .Values.networkPolicy.egress.gitPorts }}
    - {protocol: TCP, port: {{ int64 . }}}
    {{- end }}
- ports:
    - {protocol: UDP, port: 53}
    - {protocol: TCP, port: 53}
{{- end -}}

{{- define "csi-hostpath.egress" -}}
{{- with .Values.networkPolicy.egress -}}
{{- if .enabled -}}
egress:
  - ports:
      {{- range .ports }}
      - {protocol: TCP, port: {{ int64 . }}}
      {{- end }}
    {{- with .to }}
    to:
      {{- toYaml . | nindent 6 }}
    {{- end }}
{{- end -}}
{{- end -}}
{{- end -}}

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
{{- end -}}

{{- /* The directories of the node to mount, as JSON: {"list": [...]}. A pool's parent, not the pool itself: kubelet would make
the directory of an optional pool on the nodes that have none, and the driver a pool in it. */ -}}
{{- define "csi-hostpath.hostDirectories" -}}
{{- $own := list .Values.kubeletDir "/csi" "/etc/csi-hostpath" "/host" "/run/csi-hostpath" "/usr/local/bin" -}}
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

{{- /* What every container but the driver's has: dict "root" $ "sidecar" VALUES. */ -}}
{{- define "csi-hostpath.sidecar" -}}
securityContext:
  {{- include "csi-hostpath.restricted" .root | nindent 2 }}
resources:
  {{- toYaml .sidecar.resources | nindent 2 }}
terminationMessagePolicy: FallbackToLogsOnError
volumeMounts:
  # Read-only: a socket can be used all the same, and not exchanged.
  - name: sidecars
    mountPath: /run/csi-hostpath
    readOnly: true
  - name: api-access
    mountPath: /var/run/secrets/kubernetes.io/serviceaccount
    readOnly: true
{{- end -}}

{{- /* The user that the sidecars of every node are for the API server. */ -}}
{{- define "csi-hostpath.user" -}}
system:serviceaccount:{{ .Release.Namespace }}:{{ include "csi-hostpath.serviceAccountName" . }}
{{- end -}}

{{- /* CEL: the node that a token was made for, or ''. */ -}}
{{- define "csi-hostpath.tokensNode" -}}
has(request.userInfo.extra) && 'authentication.kubernetes.io/node-name' in request.userInfo.extra
? request.userInfo.extra['authentication.kubernetes.io/node-name'][0] : ''
{{- end -}}

{{- /* CEL: which of the things that every object has an update leaves alone: dict "mayChange" ANNOTATION. */ -}}
{{- define "csi-hostpath.metadataStays" -}}
object.metadata.?labels == oldObject.metadata.?labels &&
object.metadata.?finalizers == oldObject.metadata.?finalizers &&
object.metadata.?ownerReferences == oldObject.metadata.?ownerReferences &&
object.metadata.?annotations.orValue({}).all(k, k == '{{ .mayChange }}' ||
k in oldObject.metadata.?annotations.orValue({}) && object.metadata.annotations[k] == oldObject.metadata.annotations[k]) &&
oldObject.metadata.?annotations.orValue({}).all(k, k == '{{ .mayChange }}' || k in object.metadata.?annotations.orValue({}))
{{- end -}}

{{- /* The annotation in which external-resizer keeps a volume's size of before it began to grow (AnnPreResizeCapacity). */ -}}
{{- define "csi-hostpath.sizeBefore" -}}
volume.alpha.kubernetes.io/pre-resize-capacity
{{- end -}}

{{- /* Whether volumes of a class can grow, as true or false: a path of the node has no size. */ -}}
{{- define "csi-hostpath.classGrows" -}}
{{- if hasKey . "allowVolumeExpansion" -}}{{- .allowVolumeExpansion -}}
{{- else -}}{{- not (hasKey (default dict .parameters) "path") -}}
{{- end -}}
{{- end -}}

{{- /* What a NetworkPolicy lets out: the way to the API server, for which there is no selector. The sidecars take its address from their
environment, not from DNS. */ -}}
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

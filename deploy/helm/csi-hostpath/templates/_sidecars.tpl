{{- /* Upstream's sidecars, unchanged: on each node beside the driver or, in the central deployment, beside the controller. */ -}}

{{- define "csi-hostpath.provisioner" -}}
{{- $central := eq .Values.deployment "central" -}}
- name: provisioner
  image: {{ include "csi-hostpath.image" (dict "image" .Values.provisioner.image "tag" "") | quote }}
  imagePullPolicy: {{ .Values.provisioner.image.pullPolicy }}
  args:
    - --csi-address=/run/csi-hostpath/csi.sock
    {{- if $central }}
    {{- include "csi-hostpath.leaderElection" . | nindent 4 }}
    - --feature-gates=ReleaseLeaderElectionOnExit=true
    - --snapshot-orphan-sweep-interval=0 # the driver keeps the source of a copy that is under way
    {{- else }}
    - --node-deployment
    - --node-deployment-base-delay={{ .Values.provisioner.immediateBindingDelay }}
    {{- end }}
    - --strict-topology
    - --immediate-topology=false
    - --extra-create-metadata
    - --enable-capacity
    {{- if $central }}
    - --capacity-ownerref-level=2 # pod → ReplicaSet → Deployment
    - --kube-api-capacity-qps={{ .Values.controller.kubeApiQps }}
    - --kube-api-capacity-burst={{ .Values.controller.kubeApiBurst }}
    {{- else }}
    - --capacity-ownerref-level=1 # pod → DaemonSet
    {{- end }}
    - --capacity-poll-interval={{ default (ternary "1m" "5m" $central) .Values.provisioner.capacityPollInterval }}
    - --timeout={{ .Values.provisioner.timeout }}
    - --retry-interval-max=1m
    - --worker-threads={{ .Values.provisioner.workerThreads }}
    {{- include "csi-hostpath.kubeAPI" (dict "root" . "sidecar" .Values.provisioner) | nindent 4 }}
    - --http-endpoint=:{{ .Values.provisioner.metricsPort }}
    - --v={{ .Values.provisioner.logLevel }}
  env:
    {{- if not $central }}
    - name: NODE_NAME
      valueFrom:
        fieldRef:
          fieldPath: spec.nodeName
    {{- end }}
    - name: NAMESPACE
      valueFrom:
        fieldRef:
          fieldPath: metadata.namespace
    - name: POD_NAME
      valueFrom:
        fieldRef:
          fieldPath: metadata.name
  ports:
    - name: provisioner
      containerPort: {{ .Values.provisioner.metricsPort }}
  {{- include "csi-hostpath.sidecar" (dict "root" . "sidecar" .Values.provisioner) | nindent 2 }}
{{- end -}}

{{- define "csi-hostpath.resizer" -}}
- name: resizer
  image: {{ include "csi-hostpath.image" (dict "image" .Values.resizer.image "tag" "") | quote }}
  imagePullPolicy: {{ .Values.resizer.image.pullPolicy }}
  args:
    - --csi-address=/run/csi-hostpath/csi.sock
    {{- include "csi-hostpath.leaderElection" . | nindent 4 }}
    - --feature-gates=ReleaseLeaderElectionOnExit=true
    - --handle-volume-inuse-error=false # growing is always online, so it need not know all pods
    - --timeout={{ .Values.resizer.timeout }}
    - --workers={{ .Values.resizer.workerThreads }}
    {{- include "csi-hostpath.kubeAPI" (dict "root" . "sidecar" .Values.resizer) | nindent 4 }}
    - --http-endpoint=:{{ .Values.resizer.metricsPort }}
    - --v={{ .Values.resizer.logLevel }}
  ports:
    - name: resizer
      containerPort: {{ .Values.resizer.metricsPort }}
  {{- include "csi-hostpath.sidecar" (dict "root" . "sidecar" .Values.resizer) | nindent 2 }}
{{- end -}}

{{- /* "true" with group snapshots. */ -}}
{{- define "csi-hostpath.groupSnapshots" -}}
{{- if and .Values.snapshotter.enabled .Values.snapshotter.groupSnapshots -}}
{{- if ne .Values.deployment "central" -}}
{{- fail "snapshotter.groupSnapshots needs deployment: central; for node deployment set it to false. There external-snapshotter takes no group snapshots: it filters their contents by a label that nobody sets" -}}
{{- end -}}
true
{{- end -}}
{{- end -}}

{{- define "csi-hostpath.snapshotter" -}}
{{- $central := eq .Values.deployment "central" -}}
- name: snapshotter
  image: {{ include "csi-hostpath.image" (dict "image" .Values.snapshotter.image "tag" "") | quote }}
  imagePullPolicy: {{ .Values.snapshotter.image.pullPolicy }}
  args:
    - --csi-address=/run/csi-hostpath/csi.sock
    {{- if $central }}
    {{- include "csi-hostpath.leaderElection" . | nindent 4 }}
    {{- else }}
    - --node-deployment
    - --leader-election=false
    {{- end }}
    # With group snapshots it waits half a minute for their API.
    - --feature-gates=CSIVolumeGroupSnapshot={{ include "csi-hostpath.groupSnapshots" . | default "false" }}{{ if $central }},ReleaseLeaderElectionOnExit=true{{ end }}
    - --extra-create-metadata
    - --timeout={{ .Values.snapshotter.timeout }}
    - --retry-interval-max=1m
    - --worker-threads={{ .Values.snapshotter.workerThreads }}
    {{- include "csi-hostpath.kubeAPI" (dict "root" . "sidecar" .Values.snapshotter) | nindent 4 }}
    - --http-endpoint=:{{ .Values.snapshotter.metricsPort }}
    - --v={{ .Values.snapshotter.logLevel }}
  {{- if not $central }}
  env:
    - name: NODE_NAME
      valueFrom:
        fieldRef:
          fieldPath: spec.nodeName
  {{- end }}
  ports:
    - name: snapshotter
      containerPort: {{ .Values.snapshotter.metricsPort }}
  {{- include "csi-hostpath.sidecar" (dict "root" . "sidecar" .Values.snapshotter) | nindent 2 }}
{{- end -}}

{{- /* Two replicas, one of which is active. Each lease costs a request of each replica in each retry period: with upstream's periods, 15 s,
10 s and 5 s, twice as many. A replica that ends gives its leases up at once. */ -}}
{{- define "csi-hostpath.leaderElection" -}}
- --leader-election
- --leader-election-lease-duration=30s
- --leader-election-renew-deadline=20s
- --leader-election-retry-period=10s
{{- end -}}

{{- /* How many requests a sidecar may make: dict "root" $ "sidecar" VALUES. */ -}}
{{- define "csi-hostpath.kubeAPI" -}}
{{- $limits := ternary .root.Values.controller .sidecar (eq .root.Values.deployment "central") -}}
- --kube-api-qps={{ $limits.kubeApiQps }}
- --kube-api-burst={{ $limits.kubeApiBurst }}
{{- end -}}

{{- /* What every container but the driver's has: dict "root" $ "sidecar" VALUES. */ -}}
{{- define "csi-hostpath.sidecar" -}}
{{- $central := eq .root.Values.deployment "central" -}}
securityContext:
  {{- include "csi-hostpath.restricted" .root | nindent 2 }}
resources:
  {{- toYaml (ternary .root.Values.controller.sidecars.resources .sidecar.resources $central) | nindent 2 }}
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

{{- /* The volume with a pod's token for the API server. */ -}}
{{- define "csi-hostpath.apiAccess" -}}
- name: api-access
  projected:
    defaultMode: 0444
    sources:
      - serviceAccountToken:
          path: token
          expirationSeconds: 3607
      - configMap:
          name: kube-root-ca.crt
          items:
            - key: ca.crt
              path: ca.crt
      - downwardAPI:
          items:
            - path: namespace
              fieldRef:
                fieldPath: metadata.namespace
{{- end -}}
